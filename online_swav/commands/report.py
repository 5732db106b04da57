"""`report`: the story and the pictures of a run, as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from online_swav.commands.options import run_folder
from online_swav.errors import ConfigError

IMAGES = 1000


def report(arguments: list[str]) -> int:
    """Write the report of a run."""
    parser = argparse.ArgumentParser(
        prog="online-swav report",
        description="One HTML file, for any browser and without a network: verdict and findings, "
        "the story, curves, books, and what the encoder sees in a sample of images. Changes "
        "nothing in the run; a live run may be asked.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run folder")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="where it goes (default: DIR/report.html, served as /report on the "
                        "metrics port)")  # fmt: skip
    parser.add_argument("--shards", nargs="+", metavar="GLOB", help="shards the sample of images "
                        "is taken from (default: the run's probe_test, else its "
                        "sources)")  # fmt: skip
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N",
                        help="images in the sample (default: %(default)s)")  # fmt: skip
    parser.add_argument("--no-images", action="store_true", help="show no picture of the data, "
                        "and encode none: quicker")  # fmt: skip
    options = parser.parse_args(arguments)
    run = run_folder(options.run)
    if options.images < 1:
        raise ConfigError(f"--images must be at least 1, got {options.images}")
    if options.no_images and options.shards:
        raise ConfigError("--shards says where images come from, and --no-images wants none")
    out = options.out or run / "report.html"
    from online_swav.report.build import write_report
    from online_swav.wording import size

    size_bytes = write_report(
        run, out, shards=tuple(options.shards or ()), images=options.images,
        with_images=not options.no_images, say=print,
    )  # fmt: skip
    print(f"wrote {out} ({size(size_bytes)})")
    print(f"open it with a browser: {out.resolve().as_uri()}")
    return 0
