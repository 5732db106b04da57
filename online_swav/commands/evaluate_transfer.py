"""`evaluate transfer`: the encoder on another labelled data set."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from online_swav.commands.counting import counting
from online_swav.commands.evaluate_linear import add_probe_options, probe_config
from online_swav.commands.protocol import Protocol, judge, lay_out
from online_swav.commands.protocol_options import add_shared_options

if TYPE_CHECKING:
    from online_swav.evaluation.transfer import TransferResult
    from online_swav.evaluation.trunks import Trunk


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_probe_options(parser)
    add_shared_options(parser)


def _run(options: argparse.Namespace) -> int:
    config = probe_config(options)
    bench = lay_out(options, official=options.preset == "official")
    from online_swav.evaluation.features import features_of
    from online_swav.evaluation.transfer import transfer

    def one(trunk: Trunk) -> TransferResult:
        with counting(f"{trunk.name}: features", sum(len(s) for s in bench.sides)) as advance:
            train, test = (
                features_of(trunk, side, cache=options.cache, advance=advance)
                for side in bench.sides
            )
        with counting(f"{trunk.name}: epochs", config.epochs) as advance:
            return transfer(
                train, test, classes=bench.test.num_classes, config=config, device=bench.device,
                progress=lambda _epoch, _measures: advance(1),
            )  # fmt: skip

    kind = "several labels for each image" if bench.test.multi_label else "one label for each image"
    title = (
        f"transfer, cached features: {len(bench.test)} images after {len(bench.train)}, "
        f"{bench.test.num_classes} classes, {kind}, {bench.test.view}"
    )
    return judge(TRANSFER, options, bench, one, title=title,
                 settings={"mode": "cached", **dataclasses.asdict(config)})  # fmt: skip


TRANSFER = Protocol(
    name="transfer",
    help="linear probe and k-NN on another data set: accuracy, or mAP for several labels",
    description="Give another labelled data set with --train and --test. The probe learns from "
    "features that are extracted once, with --preset official too (`evaluate linear` has augmented "
    "views). With one label for each "
    "image (KEY.cls) both protocols report accuracy; with several (KEY.json: "
    '{"labels": [3, 7]}) mean average precision over the classes, as the area under precision over '
    "recall, and by the 11 points of VOC 2007. Several labels need scikit-learn: "
    "pip install 'online-swav[evaluate]'.",
    add_options=_add_options,
    run=_run,
)
