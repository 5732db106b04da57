"""Lease, read, decode, crop, shuffle, batch: a plain generator that knows no Ray.

Order: `open_shards` tars are read in turn, one sample each; `window` encoded samples, or fewer when
they reach `window_bytes`, are shuffled together by a generator seeded with (seed, worker,
generation, window number). Nothing of this order has to be saved: the ledger, not a cursor, knows
what was trained.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streams.batch import Batch
from streams.config import CropFamily, IngestConfig
from streams.decode import decode_image
from streams.errors import LeaseLost, SampleError, ShardError
from streams.multicrop import largest_reduction, multicrop, sample_generator
from streams.near_duplicates import NearDuplicates, gray_cells
from streams.quarantine import Quarantine
from streams.reader import RawSample, RejectedSample, ShardReader
from streams.shard import Lease, Origin, SampleId

logger = logging.getLogger(__name__)


def empty_crops(families: Sequence[CropFamily], size: int) -> tuple[npt.NDArray[np.uint8], ...]:
    """Memory for a batch of `size` images: uint8 `[V_r, size, S_r, S_r, 3]` per crop family."""
    return tuple(np.empty((f.num, size, f.size, f.size, 3), dtype=np.uint8) for f in families)


class Books(Protocol):
    """What a reader asks of the ledger."""

    def lease(self, worker: str, *, generation: int) -> Lease | None:
        """See `Ledger.lease`."""

    def finish(self, lease: Lease, *, num_samples: int, fault: str | None) -> None:
        """See `Ledger.finish`."""

    def reject(self, lease: Lease, *, index: int, reason: str) -> bool:
        """See `Ledger.reject`."""

    def quarantine(self, lease: Lease, *, fault: str) -> None:
        """See `Ledger.quarantine`."""


@dataclass(slots=True, eq=False)
class _OpenShard:
    lease: Lease
    reader: ShardReader
    samples: Iterator[RawSample | RejectedSample]
    waiting: int = 0
    """Samples that are read but not yet decoded."""
    ended: bool = False
    """The tar is read to its end."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """An image of the begun batch."""

    lease: Lease
    index: int
    decode_s: float
    cells: npt.NDArray[np.uint8] | None
    """For `NearDuplicates`; None in a later pass, where to be seen again is no news."""


class Ingest:
    """Turns leased shards into batches.

    Args:
        books: The ledger.
        quarantine: Where rejected samples are kept.
        families: Crop families; the first holds the views that get codes.
        config: Batch size, window, caps.
        worker: Name under which shards are leased.
        generation: Run generation; when it is over, `next_batch` raises `LeaseLost`.
        seed: Run seed. With a sample's identity it decides its crops on every worker.
        allocate: Where the next batch is cut into, as of `empty_crops`; new memory without it.
    """

    def __init__(
        self,
        *,
        books: Books,
        quarantine: Quarantine,
        families: Sequence[CropFamily],
        config: IngestConfig,
        worker: str,
        generation: int,
        seed: int,
        allocate: Callable[[], tuple[npt.NDArray[np.uint8], ...]] | None = None,
    ) -> None:
        self._books = books
        self._quarantine = quarantine
        self._families = tuple(families)
        self._config = config
        self._worker = worker
        self._generation = generation
        self._seed = seed
        self._reduce = partial(largest_reduction, families=self._families)
        self._allocate = allocate or (lambda: empty_crops(families, config.batch_size))
        self._open: deque[_OpenShard] = deque()
        self._window: list[tuple[_OpenShard, RawSample]] = []
        self._windows_shuffled = 0
        self._filling = True
        self._crops: tuple[npt.NDArray[np.uint8], ...] = ()
        self._taken: list[_Taken] = []
        self._near_duplicates = NearDuplicates()
        self.tokens: set[int] = set()
        """Tokens of every lease this worker was given; the caller renews and prunes them."""

    def next_batch(self, *, flush: bool = False) -> Batch | None:
        """A full batch; with `flush` at the end of what there is, a smaller one; else None.

        None means that no shard can be leased now. Ask again later: a batch that is only begun
        waits for more images.

        Raises:
            LeaseLost: If the generation is over.
        """
        while len(self._taken) < self._config.batch_size:
            sample = self._next_sample()
            if sample is None:
                if flush and self._taken:
                    break
                return None
            self._add(*sample)
        return self._emit()

    # -- reading -------------------------------------------------------------------------------

    def _next_sample(self) -> tuple[_OpenShard, RawSample] | None:
        """Fill the window, shuffle it, drain it, and so on. A dry stream drains what there is."""
        if self._filling:
            held_bytes = 0
            while (
                len(self._window) < self._config.window and held_bytes < self._config.window_bytes
            ):
                sample = self._read()
                if sample is None:
                    break
                self._window.append(sample)
                held_bytes += len(sample[1].image)
            if not self._window:
                return None
            worker = int.from_bytes(hashlib.blake2b(self._worker.encode(), digest_size=4).digest())
            seeds = (self._seed, worker, self._generation, self._windows_shuffled)
            order = np.random.default_rng(seeds).permutation(len(self._window))
            self._window = [self._window[i] for i in order]
            self._windows_shuffled += 1
            self._filling = False
        sample = self._window.pop()
        self._filling = not self._window
        return sample

    def _read(self) -> tuple[_OpenShard, RawSample] | None:
        """The next sample of the open shards in turn, or None when nothing can be leased."""
        while True:
            while len(self._open) < self._config.open_shards:
                lease = self._books.lease(self._worker, generation=self._generation)
                if lease is None:
                    break
                self.tokens.add(lease.token)
                reader = ShardReader(lease.shard, limits=self._config.limits, skip=lease.skip)
                self._open.append(_OpenShard(lease, reader, iter(reader)))
            if not self._open:
                return None
            shard = self._open.popleft()
            try:
                sample = next(shard.samples, None)
                if sample is None:
                    shard.ended = True
                    self._finish_when_decoded(shard)
                elif isinstance(sample, RejectedSample):
                    self._open.append(shard)
                    self._reject(
                        shard.lease, index=sample.index, key=sample.key, reason=sample.reason,
                        detail=sample.detail, suffix="bin", data=sample.data,
                    )  # fmt: skip
                else:
                    self._open.append(shard)
                    shard.waiting += 1
                    return shard, sample
            except ShardError as error:
                self._give_up(shard.lease, error)

    def _finish_when_decoded(self, shard: _OpenShard) -> None:
        """Not before: until its last picture is decoded, this shard may still kill its reader."""
        if not shard.ended or shard.waiting:
            return
        lease, reader = shard.lease, shard.reader
        try:
            self._books.finish(lease, num_samples=reader.num_samples, fault=reader.fault)
        except LeaseLost:
            logger.warning("lease_lost shard=%s", lease.shard.url)
            return
        if reader.fault is not None:
            logger.warning("shard_damaged shard=%s fault=%r", lease.shard.url, reader.fault)
            self._quarantine.keep_shard(lease.shard, fault=reader.fault)

    def _give_up(self, lease: Lease, error: ShardError) -> None:
        fault = f"{error.reason}: {error}"
        self._quarantine.keep_shard(lease.shard, fault=fault)
        try:
            self._books.quarantine(lease, fault=fault)
        except LeaseLost:
            logger.warning("lease_lost shard=%s", lease.shard.url)

    def _reject(
        self, lease: Lease, *, index: int, key: str, reason: str, detail: str,
        suffix: str, data: bytes | None,
    ) -> None:  # fmt: skip
        logger.warning("sample_rejected shard=%s index=%d key=%r reason=%s detail=%r",
                       lease.shard.url, index, key, reason, detail)  # fmt: skip
        self._quarantine.keep_sample(lease.shard, index=index, key=key, reason=reason,
                                     detail=detail, suffix=suffix, data=data)  # fmt: skip
        try:
            self._books.reject(lease, index=index, reason=reason)
        except LeaseLost:
            logger.warning("lease_lost shard=%s", lease.shard.url)

    # -- batching ------------------------------------------------------------------------------

    def _add(self, shard: _OpenShard, sample: RawSample) -> None:
        """Decode and crop one sample into the batch, or reject it."""
        self._decode(shard.lease, sample)
        shard.waiting -= 1
        self._finish_when_decoded(shard)

    def _decode(self, lease: Lease, sample: RawSample) -> None:
        begun = time.perf_counter()
        try:
            image = decode_image(sample.image, self._config.limits, reduce=self._reduce)
        except SampleError as error:
            self._reject(
                lease, index=sample.index, key=sample.key, reason=error.reason,
                detail=str(error), suffix=sample.suffix, data=sample.image,
            )  # fmt: skip
            return
        rng = sample_generator(
            self._seed, SampleId(lease.shard.id, sample.index), lease.pass_number
        )
        if not self._crops:
            self._crops = self._allocate()
        position = len(self._taken)
        multicrop(image, self._families, rng, [family[:, position] for family in self._crops])
        took = time.perf_counter() - begun
        cells = gray_cells(image) if lease.pass_number == 0 else None
        self._taken.append(_Taken(lease, sample.index, took, cells))

    def _emit(self) -> Batch:
        cells = [taken.cells for taken in self._taken if taken.cells is not None]
        seen = iter(self._near_duplicates.seen(cells))
        batch = Batch.of(
            self._crops,
            origins=tuple(
                Origin(SampleId(t.lease.shard.id, t.index), t.lease.pass_number, t.lease.token)
                for t in self._taken
            ),
            arrived_at=tuple(taken.lease.shard.discovered_at for taken in self._taken),
            decode_s=tuple(taken.decode_s for taken in self._taken),
            near_duplicates=tuple(taken.cells is not None and next(seen) for taken in self._taken),
        )
        self._crops, self._taken = (), []
        return batch
