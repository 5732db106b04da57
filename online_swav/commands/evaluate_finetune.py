"""`evaluate finetune`: trunk and head together on a few labels."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.commands.protocol import Bench, Protocol, judge, lay_out
from online_swav.commands.protocol_options import add_shared_options
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.evaluation.finetune import FinetuneConfig, FinetuneResults
    from online_swav.evaluation.scoring import Measures
    from online_swav.evaluation.trunks import Trunk


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", choices=("1", "10"), nargs="+", default=["1", "10"],
                        help="per cent of the labels, the same share of every class; each with "
                        "its official rates (default: 1 10)")  # fmt: skip
    parser.add_argument("--list", type=Path, metavar="FILE",
                        help="train on exactly these images, one name a line, with the rates of "
                        "the one --labels that is given")  # fmt: skip
    parser.add_argument(
        "--epochs", type=int, help="instead of 20; the rates fall at the same parts"
    )
    parser.add_argument("--batch-size", type=int, help="instead of 256")
    parser.add_argument("--trunk-rate", type=float, metavar="RATE",
                        help="learning rate of the trunk (official: 0.02 and 0.01)")  # fmt: skip
    parser.add_argument("--head-rate", type=float, metavar="RATE",
                        help="learning rate of the head (official: 5 and 0.2)")  # fmt: skip
    add_shared_options(parser, features=False)


def _run(options: argparse.Namespace) -> int:
    shares = list(dict.fromkeys(options.labels))
    if options.list is not None and len(shares) > 1:
        raise ConfigError("--list needs the rates of one setting: --labels 1 or --labels 10")
    configs = {share: _config(share, options) for share in shares}
    bench = lay_out(options, official=True)
    if bench.train.multi_label:
        raise ConfigError("fine-tuning needs one label for each image (KEY.cls), not several")
    from online_swav.evaluation.finetune import FinetuneResults, finetune, trainable
    from online_swav.evaluation.subsets import listed, stratified

    for trunk in bench.trunks:
        if not trainable(trunk):
            print(f"{trunk.name}: no weights to fine-tune, left out", file=sys.stderr)
    bench = dataclasses.replace(bench, trunks=tuple(t for t in bench.trunks if trainable(t)))
    if not bench.trunks:
        raise ConfigError("none of the trunks has weights to fine-tune")
    if options.list is not None:
        chosen = {shares[0]: listed([place.name for place in bench.train.places], options.list)}
    else:
        chosen = {share: stratified(bench.train.labels, fraction=config.fraction, seed=config.seed)
                  for share, config in configs.items()}  # fmt: skip

    def one(trunk: Trunk) -> FinetuneResults:
        parts = []
        for share, config in configs.items():
            words = "list" if options.list is not None else f"{share}%"

            def told(
                epoch: int, loss: float, measures: Measures, *,
                words: str = words, epochs: int = config.epochs,
            ) -> None:  # fmt: skip
                print(
                    f"{trunk.name}, {words}: epoch {epoch} of {epochs}, loss {loss:.4f}, "
                    f"top-1 {measures['top-1']:.4f}",
                    file=sys.stderr,
                )

            few = bench.train.subset(chosen[share])
            result = finetune(trunk, few, bench.test, config=config, progress=told)
            parts.append((words, result))
        return FinetuneResults(parts=tuple(parts))

    settings = {
        "list": None if options.list is None else str(options.list),
        "labels": {share: dataclasses.asdict(config) for share, config in configs.items()},
    }
    return judge(FINETUNE, options, bench, one, title=_title(bench, options), settings=settings)


def _config(share: str, options: argparse.Namespace) -> FinetuneConfig:
    from online_swav.evaluation.finetune import OFFICIAL

    if options.epochs is not None and options.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, got {options.epochs}")
    official = OFFICIAL[share]
    given = {"batch": options.batch_size, "trunk_rate": options.trunk_rate,
             "head_rate": options.head_rate, "seed": options.seed}  # fmt: skip
    try:
        return dataclasses.replace(
            official.stretched(options.epochs or official.epochs),
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _title(bench: Bench, options: argparse.Namespace) -> str:
    part = "listed labels" if options.list is not None else "a part of the labels"
    return (
        f"fine-tuning on {part} of {len(bench.train)} images: {len(bench.test)} test images, "
        f"{bench.test.num_classes} classes, {bench.test.view}"
    )


FINETUNE = Protocol(
    name="finetune",
    help="trunk and head trained on 1%% and 10%% of the labels",
    description="SGD with rates of their own for trunk and head, on random crops and flips, as "
    "SwAV's eval_semisup.py: 20 epochs, batches of 256, both rates times 0.2 after 12 and 16; test "
    "images with the short side 256/224 of the square's. On "
    "a small data set that is few steps; --epochs and --batch-size give more. Raw pixels have no "
    "weights and are left out.",
    add_options=_add_options,
    run=_run,
)
