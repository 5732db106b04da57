"""The options that every protocol of `evaluate` has."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_shared_options(
    parser: argparse.ArgumentParser, *, train: bool = True, images: bool = True,
    features: bool = True,
) -> None:  # fmt: skip
    """What is judged, by which images, and where the numbers go.

    Args:
        parser: Of the protocol.
        train: Whether it needs labelled training images.
        images: Whether it needs labelled images at all.
        features: Whether it uses features that can be kept.
    """
    what = parser.add_argument_group("what is judged")
    what.add_argument("--run", type=Path, metavar="DIR",
                      help="a run (its newest published encoder, else its newest checkpoint), or "
                      "one published or checkpoint folder")  # fmt: skip
    what.add_argument("--trunk", action="append", default=[], metavar="TRUNK",
                      help="one more column, repeatable: another run, a .safetensors or .pth file "
                      "with its card, torchvision:NAME[:FILE]")  # fmt: skip
    what.add_argument(
        "--baselines",
        action="store_true",
        help="two more columns: random weights of the same backbone, raw pixels (pooled to "
        "at most 32 x 32)",
    )
    if images:
        _add_image_options(parser, train=train)
    rest = parser.add_argument_group("the rest")
    rest.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    rest.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                      help="where the trunks run (default: a GPU if there is one)")  # fmt: skip
    if features:
        rest.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help="keep features there, and take them from there next time",
        )
    rest.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")


def _add_image_options(parser: argparse.ArgumentParser, *, train: bool) -> None:
    images = parser.add_argument_group(
        "labelled images",
        "Shards (tars, a glob, a folder; KEY.cls beside KEY.jpg), or a folder with one folder of "
        "images for each class.",
    )
    if train:
        images.add_argument("--train", nargs="+", action="extend", metavar="PLACE",
                            help="training images (default: the run's probe_train)")  # fmt: skip
    images.add_argument("--test", nargs="+", action="extend", metavar="PLACE",
                        help="held-out images (default: the run's probe_test)")  # fmt: skip
    images.add_argument("--size", type=int, metavar="PX",
                        help="side of the central square that the trunks see (default: what the "
                        "first trunk was made for)")  # fmt: skip
    images.add_argument("--limit", type=int, metavar="N",
                        help="images used at most, of each side (default: all)")  # fmt: skip
