"""This project's reader, for `ingest.py`.

Run as a script it measures its own memory, as `ingest.py` does: in a process like that of an actor,
without torch.

    python benchmarks/ingest_reader.py 'imagenet-sample/*.tar' 20000
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from streams.config import CropFamily, IngestConfig
from streams.ingest import Ingest
from streams.ledger import Ledger
from streams.quarantine import Quarantine
from streams.shard import Shard
from streams.sources import DirectorySource

FAMILIES = (CropFamily(size=224, num=2, scale=(0.14, 1.0)),
            CropFamily(size=96, num=6, scale=(0.05, 0.14)))  # fmt: skip


def find(pattern: str) -> list[Shard]:
    """The tars."""
    source = DirectorySource("sample", pattern, settle_s=0.0)
    source.poll()
    shards = source.poll()
    if not shards:
        sys.exit(f"{pattern} matches no tar")
    return shards


@contextmanager
def reader(shards: Sequence[Shard], folder: Path) -> Iterator[Ingest]:
    """A reader with a book of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ledger = Ledger(Path(name) / "ledger.sqlite")
        ledger.add(shards)
        yield Ingest(
            books=ledger, quarantine=Quarantine(Path(name) / "quarantine"), families=FAMILIES,
            config=IngestConfig(), worker="benchmark", generation=ledger.generation, seed=0,
        )  # fmt: skip
        ledger.close()


def ours(shards: Sequence[Shard], folder: Path) -> tuple[int, float]:
    """Images and seconds: lease, tar, decode, crops, batches, and what the book asks for."""
    with reader(shards, folder) as ingest:
        begun, images = perf_counter(), 0
        while (batch := ingest.next_batch(flush=True)) is not None:
            images += len(batch)
        return images, perf_counter() - begun


def growth(shards: Sequence[Shard], folder: Path, images: int) -> dict[str, int]:
    """Most megabytes resident at once, up to a tenth of the images and up to their end."""
    seen, up_to_a_tenth = 0, 0
    while seen < images:
        seen += ours(shards, folder)[0]
        if not up_to_a_tenth and seen >= images / 10:
            up_to_a_tenth = peak_mb()
    return {"images": seen, "up_to_a_tenth_mb": up_to_a_tenth, "up_to_the_end_mb": peak_mb()}


def peak_mb() -> int:
    """Most megabytes that this process ever had resident."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(1024 * int(status["VmHWM"].split()[0]) / 1e6)


def rate_pinned(core: int, shards: Sequence[Shard], folder: Path, rounds: int) -> float:
    """Images per second of a reader alone on a core."""
    os.sched_setaffinity(0, {core})
    ours(shards, folder)
    done = [ours(shards, folder) for _ in range(rounds)]
    return sum(n for n, _ in done) / sum(s for _, s in done)


def several(shards: Sequence[Shard], folder: Path, rounds: int) -> dict[str, float]:
    """One reader on a core of its own, then two on two, by turns."""
    ratios, ones = [], []
    with get_context("spawn").Pool(2) as pool:
        for _ in range(3):
            one = pool.apply(rate_pinned, (0, shards, folder, rounds))
            two = sum(pool.starmap(rate_pinned, [(c, shards, folder, rounds) for c in (0, 1)]))
            ones.append(one)
            ratios.append(two / one)
    return {"one_images_per_s": round(statistics.median(ones), 1),
            "two_by_one": round(statistics.median(ratios), 2)}  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ingest-benchmark-") as scratch:
        print(json.dumps(growth(find(sys.argv[1]), Path(scratch), int(sys.argv[2]))))
