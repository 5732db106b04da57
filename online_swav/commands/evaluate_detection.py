"""`evaluate detection`: the trunk in a detector, as a smoke test."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from online_swav.commands.protocol import Protocol, judge, lay_out
from online_swav.commands.protocol_options import add_shared_options
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.evaluation.detection import DetectionResult
    from online_swav.evaluation.trunks import Trunk


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=10, help="of training (default: 10)")
    parser.add_argument("--batch-size", type=int, default=2, help="drawn pictures (default: 2)")
    parser.add_argument("--size", type=int, default=128, metavar="PX",
                        help="side of the drawn pictures (default: 128)")  # fmt: skip
    add_shared_options(parser, images=False, features=False)


def _run(options: argparse.Namespace) -> int:
    from online_swav.evaluation.detection import DetectionConfig, detection, is_resnet

    try:
        config = DetectionConfig(
            steps=options.steps, batch=options.batch_size, size=options.size, seed=options.seed
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    bench = lay_out(options, images=False)
    kept = tuple(trunk for trunk in bench.trunks[1:] if is_resnet(trunk))
    for trunk in bench.trunks[1:]:
        if not is_resnet(trunk):
            print(f"{trunk.name}: no ResNet, left out", file=sys.stderr)
    bench = dataclasses.replace(bench, trunks=(bench.trunks[0], *kept))

    def one(trunk: Trunk) -> DetectionResult:
        return detection(trunk, config=config, progress=lambda step, loss: print(
            f"{trunk.name}: step {step} of {config.steps}, loss {loss:.4f}", file=sys.stderr
        ))  # fmt: skip

    title = (
        f"Faster R-CNN with a feature pyramid: {config.steps} steps on {config.batch} drawn "
        f"pictures of {config.size} px"
    )
    return judge(DETECTION, options, bench, one, title=title, settings=dataclasses.asdict(config))


DETECTION = Protocol(
    name="detection",
    help="a smoke test: the trunk in torchvision's Faster R-CNN, a few steps",
    description="Builds torchvision's Faster R-CNN with a feature pyramid on the trunk, counts the "
    "weights that arrived bit for bit, and trains a few steps on pictures drawn here (no images "
    "are needed). It says that the trunk can be used for detection, and nothing about how well.",
    add_options=_add_options,
    run=_run,
)
