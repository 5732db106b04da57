"""`evaluate linear`: classifiers on the frozen trunk."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from online_swav.commands.counting import counting
from online_swav.commands.protocol import Protocol, judge, lay_out
from online_swav.commands.protocol_options import add_shared_options
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.evaluation.linear import LinearConfig, LinearResult
    from online_swav.evaluation.scoring import Measures
    from online_swav.evaluation.trunks import Trunk


def add_probe_options(parser: argparse.ArgumentParser) -> None:
    """How the linear heads are trained."""
    parser.add_argument("--preset", choices=("official", "sweep"), default="sweep",
                        help="official: SwAV's 100 epochs at rate 0.3, which was found for "
                        "ResNet-50, and its test view, the short side 256/224 of the square's; "
                        "sweep: ten rates in one pass, on the whole central square (default: "
                        "sweep)")  # fmt: skip
    parser.add_argument("--rates", type=float, nargs="+", metavar="RATE",
                        help="learning rates, one head each, instead of the preset's")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="instead of 100")
    parser.add_argument("--batch-size", type=int, help="instead of 256")


def probe_config(options: argparse.Namespace) -> LinearConfig:
    """The preset with what is given instead.

    Raises:
        ConfigError: If a value is out of range.
    """
    from online_swav.evaluation.linear import OFFICIAL, SWEEP

    given = {
        "rates": tuple(dict.fromkeys(options.rates)) if options.rates else None,
        "epochs": options.epochs, "batch": options.batch_size, "seed": options.seed,
    }  # fmt: skip
    try:
        return dataclasses.replace(
            OFFICIAL if options.preset == "official" else SWEEP,
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=("cached", "augmented"),
                        help="cached: features of the central squares, extracted once; augmented: "
                        "random crops and flips through the trunk at every epoch (default: "
                        "augmented with --preset official, else cached)")  # fmt: skip
    add_probe_options(parser)
    add_shared_options(parser)


def _run(options: argparse.Namespace) -> int:
    config = probe_config(options)
    bench = lay_out(options, official=options.preset == "official")
    if bench.test.multi_label:
        raise ConfigError(
            "the images have several labels each (KEY.json); `evaluate transfer` judges these"
        )
    from online_swav.evaluation.features import features_of
    from online_swav.evaluation.linear import augmented, cached, linear_probe

    mode = options.mode or ("augmented" if options.preset == "official" else "cached")

    def one(trunk: Trunk) -> LinearResult:
        sides = bench.sides if mode == "cached" else (bench.test,)
        with counting(f"{trunk.name}: features", sum(len(side) for side in sides)) as advance:
            seen = [
                features_of(trunk, side, cache=options.cache, advance=advance) for side in sides
            ]
        test = seen[-1]
        epochs = (
            cached(seen[0].features, seen[0].labels, config) if mode == "cached"
            else augmented(trunk, bench.train, config)
        )  # fmt: skip
        with counting(f"{trunk.name}: epochs", config.epochs) as advance:

            def told(epoch: int, measures: Measures) -> None:
                advance(1)
                if mode == "augmented":  # an epoch takes long
                    print(
                        f"{trunk.name}: epoch {epoch} of {config.epochs}, "
                        f"top-1 {measures['top-1']:.4f}",
                        file=sys.stderr,
                    )

            return linear_probe(
                epochs, test.features, test.labels, classes=bench.test.num_classes, config=config,
                device=bench.device, progress=told,
            )  # fmt: skip

    title = (
        f"linear probe, {mode}, {config.epochs} epochs: {len(bench.test)} images after "
        f"{len(bench.train)}, {bench.test.num_classes} classes, {bench.test.view}"
    )
    return judge(LINEAR, options, bench, one, title=title,
                 settings={"mode": mode, **dataclasses.asdict(config)})  # fmt: skip


LINEAR = Protocol(
    name="linear",
    help="linear classifiers on the frozen trunk: top-1 and top-5, last and best epoch",
    description="SGD on frozen features, as SwAV's eval_linear.py. Several learning rates are "
    "trained side by side in one pass; the one that is highest in the last epoch is reported, and "
    "the others below it. The best epoch, and the best of several rates, are chosen on the images "
    "they are judged by, as in the official script; the last epoch at a single rate is not.",
    add_options=_add_options,
    run=_run,
)
