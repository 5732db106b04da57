"""What the ledger benchmark puts on a book: a history of finished shards, then readers and ranks.

`write_history` fills a book with rows as the product leaves them behind a finished and folded
shard, in bulk. `Load` is a set of simulated readers and learner ranks which work on it by the same
calls as the real ones.
"""

from __future__ import annotations

import contextlib
import queue
import random
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from streams.ledger import Ledger
from streams.ledger_schema import TRIGGERS, sum_totals
from streams.shard import Lease, Origin, SampleId, Shard

IMAGES_PER_SHARD = 1000
REJECT_EVERY = 100  # of the shards in the history, one in so many has a sample that was rejected
OPEN_SHARDS = 4  # per reader, as `ingest.open_shards` has it
LEASE_S = 60.0  # as `ingest.lease_s` has it
SOURCES = 4
DISCOVERED_TOGETHER = 100


def shard(number: int) -> Shard:
    """The shard of a number: a path and a fingerprint as long as real ones."""
    source = f"camera-{number % SOURCES}"
    return Shard(
        url=f"/data/streams/{source}/2026-11/images-{number:010d}.tar",
        size_bytes=50_000_000 + number, fingerprint=f"{50_000_000 + number}-1780000000123456789",
        discovered_at=1.78e9 + number, source=source,
    )  # fmt: skip


def write_history(path: Path, finished: int) -> None:
    """Make a book in which shards 0 to `finished` are done and folded, faster than by its calls.

    The rows hold what `add`, `lease`, `finish`, `claim`, `reject` and `fold` would have left. They
    are written with neither triggers nor secondary indexes; opening the book makes both anew.
    `Ledger.verify` proves that the result is a sound book.
    """
    Ledger(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-1500000")  # in KiB: the index of random ids stays in memory
        db.execute("BEGIN")
        for trigger in TRIGGERS:
            db.execute(f"DROP TRIGGER {trigger}")
        for (index,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall():
            db.execute(f"DROP INDEX {index}")
        db.executemany(
            "INSERT INTO shards (id, url, source, size_bytes, fingerprint, discovered_at, state, "
            "num_samples, claimed, trained, rejected, token, version) "
            "VALUES (?, ?, ?, ?, ?, ?, 'done', ?, ?, ?, ?, ?, ?)",
            map(_finished_row, range(finished)),
        )
        db.executemany(
            "INSERT INTO rejects SELECT number, 7, 0, 'corrupt', version FROM shards "
            "WHERE rejected = 1 AND ?", [(True,)],
        )  # fmt: skip
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)",
                       [("version", finished), ("token", finished)])  # fmt: skip
        sum_totals(db)
        db.execute("COMMIT")
    Ledger(path).close()


def _finished_row(number: int) -> tuple[object, ...]:
    made = shard(number)
    rejected = int(number % REJECT_EVERY == 0)
    trained = IMAGES_PER_SHARD - rejected
    return (made.id, made.url, made.source, made.size_bytes, made.fingerprint, made.discovered_at,
            IMAGES_PER_SHARD, trained, trained, rejected, number + 1, number + 1)  # fmt: skip


@dataclass
class _Open:
    """A shard that a reader is in the middle of."""

    lease: Lease
    images: int
    read: int = 0


@dataclass
class _Reader:
    name: str
    open: list[_Open] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    renewed_at: float = 0.0


class Load:
    """Readers that hold leases and ranks that claim what they read, all on one book.

    Args:
        ledger: The book.
        known: Shards that are in it already.
        waiting: Unread shards that discovery keeps in the book beyond those leased.
        readers: Simulated readers; each holds `OPEN_SHARDS` leases.
        ranks: Learner ranks; each claims a batch per step.
        images: Images per batch.
        first_step: The step that the load begins after.
    """

    def __init__(
        self, ledger: Ledger, *, known: int, waiting: int, readers: int, ranks: int, images: int,
        first_step: int = 0,
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self.known = known
        self.step = first_step
        self.ranks = ranks
        self.seconds: dict[str, list[float]] = defaultdict(list)
        """Every call's duration, by the name of the call."""
        self.finished = 0
        self.claimed = 0
        self._images = images
        self._rng = random.Random(0)
        self._generation = ledger.begin(first_step)
        self._leased = 0
        self._turn = 0
        self._next_renewal = 0
        self._together = min(waiting, DISCOVERED_TOGETHER)
        self._discover(waiting)
        self._readers = [_Reader(f"reader-{number}") for number in range(readers)]
        for reader in self._readers:
            self._open(reader)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long a call takes."""
        begun = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - begun)

    def _discover(self, number: int) -> None:
        news = [shard(self.known + i) for i in range(number)]
        self.known += number
        self.ledger.add(news)

    def _open(self, reader: _Reader) -> None:
        while len(reader.open) < OPEN_SHARDS:
            with self.timed("lease"):
                lease = self.ledger.lease(reader.name, generation=self._generation)
            if lease is None:
                raise RuntimeError("the book has no shard left to lease")
            # Of unequal length, so that shards end all the time and not all at once.
            images = self._rng.randint(1, IMAGES_PER_SHARD)
            reader.open.append(_Open(lease, images))
            reader.tokens.append(lease.token)
            self._leased += 1
            if self._leased % self._together == 0:
                self._discover(self._together)

    def read(self) -> list[Origin]:
        """The next reader's batch: mixed from its open shards; ended ones are replaced."""
        reader = self._readers[self._turn % len(self._readers)]
        self._turn += 1
        batch: list[Origin] = []
        while len(batch) < self._images:
            for part in list(reader.open):
                stop = min(part.read + max(self._images // OPEN_SHARDS, 1), part.images,
                           part.read + self._images - len(batch))  # fmt: skip
                lease = part.lease
                batch += [
                    Origin(SampleId(lease.shard.id, index), lease.pass_number, lease.token)
                    for index in range(part.read, stop)
                ]
                part.read = stop
                if stop == part.images:
                    with self.timed("finish"):
                        self.ledger.finish(lease, num_samples=part.images, fault=None)
                    self.finished += 1
                    reader.open.remove(part)
                    self._open(reader)
        self._renew()
        return batch

    def _renew(self) -> None:
        """Readers renew four times per lease, as real ones do, each in its turn."""
        now = time.monotonic()
        while self._readers[self._next_renewal].renewed_at < now - LEASE_S / 4:
            reader = self._readers[self._next_renewal]
            reader.renewed_at = now
            with self.timed("renew"):
                reader.tokens = self.ledger.renew(reader.name, reader.tokens)
            self._next_renewal = (self._next_renewal + 1) % len(self._readers)

    def claim(self, batch: list[Origin], rank: int) -> None:
        """A rank claims a batch for the step that is being made."""
        with self.timed("claim"):
            granted = self.ledger.claim(
                batch, generation=self._generation, rank=rank, step=self.step
            )
        if not all(granted):
            raise RuntimeError(f"{granted.count(False)} images of a fresh batch were refused")
        self.claimed += len(batch)

    def steps(self, number: int) -> None:
        """So many steps of all ranks, in the caller's thread."""
        for _ in range(number):
            self.step += 1
            for rank in range(self.ranks):
                self.claim(self.read(), rank)

    def run_while(self, going: Callable[[], bool]) -> None:
        """Whole steps while `going`, one at least, with the readers in a thread of their own."""
        ready: queue.Queue[list[Origin] | BaseException] = queue.Queue(maxsize=2 * self.ranks)
        ended = threading.Event()

        def read() -> None:
            try:
                while not ended.is_set():
                    batch = self.read()
                    while not ended.is_set():
                        with contextlib.suppress(queue.Full):
                            ready.put(batch, timeout=0.1)
                            break
            except BaseException as error:
                ready.put(error)

        thread = threading.Thread(target=read, name="readers")
        thread.start()
        try:
            first = True
            while first or going():
                first = False
                self.step += 1
                for rank in range(self.ranks):
                    batch = ready.get()
                    if isinstance(batch, BaseException):
                        raise batch
                    self.claim(batch, rank)
        finally:
            ended.set()
            thread.join()
