"""`embed`: what an encoder sees in every picture of shards, as Parquet."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.wording import duration, size

if TYPE_CHECKING:
    from online_swav.embeddings.embed import Embedded

TOLD_S = 10.0
"""Seconds between two lines of progress where stderr is no terminal."""


def embed(arguments: list[str]) -> int:
    """Write embeddings."""
    parser = argparse.ArgumentParser(
        prog="online-swav embed",
        description="Writes one row for each picture in shards: key, shard, index, embedding, "
        "nearest prototype, score (the cosine to it). The memory needed does not grow with the "
        "number of pictures. Ended before its time, the same command goes on: finished shards are "
        "not repeated.",
        epilog="Beside FILE: FILE.encoder, the encoder that was used, so that `online-swav search` "
        "can ask with it later; FILE.missing.jsonl, which samples have no row and why, if any.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR",
                        help="a run folder (its newest published encoder, else its newest "
                        "checkpoint), a published or checkpoint folder, or a .safetensors or .pth "
                        "file with its card")  # fmt: skip
    parser.add_argument("--source", nargs="+", action="extend", required=True, metavar="SHARDS",
                        help="shards: a folder (searched to any depth), a glob, tars")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE",
                        help="the Parquet file; it must not be there yet")  # fmt: skip
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16",
                        help="of the embeddings' elements (default: %(default)s)")  # fmt: skip
    parser.add_argument("--normalise", action="store_true",
                        help="bring embeddings to unit norm")  # fmt: skip
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="pictures that are "
                        "encoded together (default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="where the encoder runs (default: a GPU if there is one)")  # fmt: skip
    options = parser.parse_args(arguments)
    from online_swav.embeddings import require_pyarrow

    require_pyarrow()
    from online_swav.assemble import choose_device
    from online_swav.embeddings.embed import EmbedConfig
    from online_swav.embeddings.embed import embed as embed_shards

    try:
        config = EmbedConfig(dtype=options.dtype, normalise=options.normalise, batch=options.batch)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    begun = time.monotonic()
    with _progress() as told:
        done = embed_shards(
            options.run, options.source, options.out, config,
            device=choose_device(RunConfig(device=options.device)),
            say=lambda words: print(words, file=sys.stderr, flush=True), told=told,
        )  # fmt: skip
    _tell(done, options.out, seconds=time.monotonic() - begun)
    return 0


def _tell(done: Embedded, out: Path, *, seconds: float) -> None:
    joined = done.joined
    print(f"wrote {out}: {joined.rows:,} rows of {done.shards:,} shards, "
          f"{size(out.stat().st_size)}, in {duration(seconds)}")  # fmt: skip
    if joined.missing:
        total = sum(joined.missing.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in joined.missing.items())
        print(f"without a row: {total:,} ({reasons}); {out}.missing.jsonl names them")
        for item in joined.examples:
            what = "the rest" if item.index is None else f"{item.key} (sample {item.index})"
            print(f"  {item.shard}: {what}: {item.detail}")
        if total > len(joined.examples):
            print(f"  and {total - len(joined.examples):,} more")


@contextmanager
def _progress() -> Iterator[Callable[[int, int, int], None]]:
    """Shards and pictures that are behind us: a bar, or a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    begun = said = time.monotonic()
    with Progress(*columns, console=console, transient=True,
                  disable=not console.is_terminal) as bar:  # fmt: skip
        task = bar.add_task("shards", total=None)

        def told(shards: int, all_shards: int, pictures: int) -> None:
            nonlocal said
            now = time.monotonic()
            words = f"{pictures:,} pictures, {pictures / max(now - begun, 1e-9):.0f}/s, shards"
            bar.update(task, completed=shards, total=all_shards, description=words)
            if not console.is_terminal and now - said >= TOLD_S:
                said = now
                print(f"{words} {shards}/{all_shards}", file=sys.stderr, flush=True)

        yield told
