"""`pack` and `synth`: making shards."""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path

from online_swav.commands.signals import stop_on_signals
from online_swav.errors import ConfigError


def pack(arguments: list[str]) -> int:
    """Pack a folder of images into shards."""
    parser = argparse.ArgumentParser(
        prog="online-swav pack", description="Pack a folder of images into WebDataset shards. "
        "Subfolders are classes: their names, sorted, become the labels.",
    )  # fmt: skip
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--prefix", default="shard")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling")
    options = parser.parse_args(arguments)
    from streams.pack import pack_folder

    try:
        report = pack_folder(
            options.images,
            options.out,
            prefix=options.prefix,
            samples_per_shard=options.samples_per_shard,
            seed=options.seed,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print(report)
    return 0


def synth(arguments: list[str]) -> int:
    """Write synthetic labelled shards, over time."""
    parser = argparse.ArgumentParser(
        prog="online-swav synth", description="Write synthetic labelled shards, over time."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, help="how many (default: endless)")
    parser.add_argument("--samples-per-shard", type=int, default=500)
    parser.add_argument("--every-s", type=float, default=0.0, help="seconds between two shards")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from streams.synthetic import produce

    stop = threading.Event()
    stop_on_signals(stop)
    parent = os.getppid()
    try:
        written = produce(
            options.out, shards=options.shards, samples_per_shard=options.samples_per_shard,
            every_s=options.every_s, seed=options.seed, size=options.size,
            # An orphaned producer would fill the disk for ever.
            stop=lambda: stop.is_set() or os.getppid() != parent,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print(f"wrote {written} shards to {options.out}")
    return 0
