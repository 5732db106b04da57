"""Streams, readers and consumers of `end_to_end.py`, without Ray.

Every turn of a reader is a generation of its own on the same book, which offers all images again.
Only what comes between the first batch and the last fifth of the images counts: neither the start
of a turn nor an uneven end of two readers is part of a run that goes on.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from online_swav.trainer import Feed
from streams.batch import Batch
from streams.config import CropFamily, IngestConfig, LimitsConfig
from streams.errors import ShardError
from streams.ingest import Ingest
from streams.ledger import Ledger
from streams.pack import write_shard
from streams.quarantine import Quarantine
from streams.reader import RawSample, ShardReader
from streams.sources import DirectorySource

ALL_CORES = sorted(os.sched_getaffinity(0))
INGEST_CORE, CONSUMER_CORE = {ALL_CORES[0]}, {ALL_CORES[-1]}
MEASURED_SHARE = 0.8


@dataclass(frozen=True)
class Turns:
    """What is read in every turn, and how often."""

    families: tuple[CropFamily, ...]
    batch: int
    images: int
    repetitions: int

    @property
    def batches(self) -> int:
        """Those that are measured."""
        return int(MEASURED_SHARE * self.images / self.batch)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's crops."""
        return sum(3 * f.num * f.size**2 for f in self.families)


@dataclass(frozen=True)
class Taken:
    """What a consumer saw."""

    images_per_s: float
    waiting: float
    """Share of its time without a batch."""


def write_stream(pattern: str, folder: Path, *, images: int, per_shard: int) -> None:
    """Shards of `per_shard` images each, the images of the tars again and again."""
    some = list(islice(_samples(pattern), images))
    if not some:
        sys.exit(f"--images: no image in {pattern}; a shard holds KEY.jpg members")
    numbered = enumerate(islice(cycle(some), images))
    folder.mkdir(parents=True)
    for number in range(math.ceil(images / per_shard)):
        samples = [(f"{i:06d}", {s.suffix: s.image}) for i, s in islice(numbered, per_shard)]
        write_shard(folder / f"shard-{number:06d}.tar", samples)


def _samples(pattern: str) -> Iterator[RawSample]:
    for shard in DirectorySource("images", pattern, settle_s=0.0).poll():
        try:
            for sample in ShardReader(shard, limits=LimitsConfig()):
                if isinstance(sample, RawSample):
                    yield sample
        except ShardError as error:
            print(f"left out: {Path(shard.url).name}: {error}", file=sys.stderr)


class OwnFeed:
    """An `Ingest` as a feed: it reads when it is asked, in the caller's thread."""

    backlog_ratio = 0.0

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self.dry = False

    def next_batch(self, *, flush: bool) -> Batch | None:
        """See `trainer.Feed`."""
        batch = self._ingest.next_batch(flush=flush)
        self.dry = batch is None
        return batch


class Reader:
    """A reader in this process with a book of its own; it runs on the core of an actor."""

    def __init__(self, stream: Path, folder: Path, turns: Turns) -> None:
        self._folder, self._turns = folder, turns
        self._source = DirectorySource("stream", str(stream), settle_s=0.0)
        self._ledger = Ledger(folder / "in-process.sqlite")
        self._ledger.add(self._source.poll())

    def feed(self) -> OwnFeed:
        """All images once more."""
        ingest = Ingest(
            books=self._ledger, quarantine=Quarantine(self._folder / "quarantine"),
            families=self._turns.families, config=IngestConfig(batch_size=self._turns.batch),
            worker="in-process", generation=self._ledger.begin(0), seed=0,
        )  # fmt: skip
        return OwnFeed(ingest)

    def images_per_s(self) -> float:
        """Of one turn."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, INGEST_CORE)
        try:
            return consume(self.feed(), self._turns.batches, lambda _batch: None).images_per_s
        finally:
            os.sched_setaffinity(0, before)


def touch(batch: Batch) -> None:
    """Read every cache line of the crops."""
    for family in batch.crops:
        family.reshape(-1)[::64].max()


def pretend_step(batch: Batch, *, step_s: float) -> None:
    """A learner on a GPU: the host copies the batch to it, and waits for the step to end."""
    begun = time.perf_counter()
    touch(batch)
    time.sleep(max(0.0, step_s - (time.perf_counter() - begun)))


def consume(feed: Feed, batches: int, use: Callable[[Batch], object]) -> Taken:
    """Take and use so many batches. The clock starts when the first one is there."""
    batch = take(feed)
    begun, waited, images = time.perf_counter(), 0.0, 0
    for _ in range(batches - 1):
        use(batch)
        asked = time.perf_counter()
        batch = take(feed)
        waited += time.perf_counter() - asked
        images += len(batch)
    took = time.perf_counter() - begun
    while not feed.dry:  # lest a reader still works for this turn in the next one
        feed.next_batch(flush=True)
    return Taken(images / took, waited / took)


def take(feed: Feed) -> Batch:
    """The next batch, however long it takes."""
    while (batch := feed.next_batch(flush=False)) is None:
        if feed.dry:
            sys.exit("too many of the images cannot be used: `online-swav train` on the same "
                     "tars, then `online-swav quarantine list`, says why")  # fmt: skip
    return batch
