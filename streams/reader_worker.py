"""The reader's side of `streams.reader_processes`: answers requests, and keeps its leases alive."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streams.batch import Batch
from streams.config import CropFamily, IngestConfig
from streams.errors import StreamError
from streams.ingest import Books, Ingest
from streams.quarantine import Quarantine
from streams.shard import Lease

logger = logging.getLogger(__name__)

IDLE_S = 0.05

Buffer = tuple[Tensor, ...]
"""Memory of one batch, as of `empty_crops`; tensors, since torch knows how to share them."""
Answer = tuple[int, Batch] | StreamError | None
"""Number of the filled buffer and its batch without the crops; an error; or nothing to read now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """What every reader of a run is told."""

    families: tuple[CropFamily, ...]
    """Crop families."""
    ingest: IngestConfig
    """Number of readers (`actors`), batches each reads ahead (`in_flight`), and the rest."""
    quarantine: Path
    """Where rejected samples are kept."""
    generation: int
    """Run generation."""
    seed: int
    """Run seed."""


def arrays(buffer: Buffer) -> tuple[npt.NDArray[np.uint8], ...]:
    """The same memory as arrays."""
    return tuple(family.numpy() for family in buffer)


class _Buffers:
    """The buffers of one reader; `take` is what its `Ingest` cuts the next batch into."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self._buffers = buffers
        self.free = deque(range(len(buffers)))
        self.taken = -1
        """Number of the last one taken: that of the batch which comes next."""

    def take(self) -> tuple[npt.NDArray[np.uint8], ...]:
        self.taken = self.free.popleft()
        return arrays(self._buffers[self.taken])


class _RemoteBooks:
    """The ledger in the learner's process. Thread-safe."""

    def __init__(self, calls: Connection) -> None:
        self._calls = calls
        self._lock = threading.Lock()

    def lease(self, worker: str, *, generation: int) -> Lease | None:
        lease: Lease | None = self._ask("lease", worker, generation=generation)
        return lease

    def renew(self, worker: str, tokens: list[int]) -> list[int]:
        alive: list[int] = self._ask("renew", worker, tokens)
        return alive

    def finish(self, lease: Lease, *, num_samples: int, fault: str | None) -> None:
        self._ask("finish", lease, num_samples=num_samples, fault=fault)

    def reject(self, lease: Lease, *, index: int, reason: str) -> bool:
        return bool(self._ask("reject", lease, index=index, reason=reason))

    def quarantine(self, lease: Lease, *, fault: str) -> None:
        self._ask("quarantine", lease, fault=fault)

    def _ask(self, method: str, *args: object, **options: object) -> Any:
        with self._lock:
            self._calls.send((method, args, options))
            answer = self._calls.recv()
        if isinstance(answer, StreamError):
            raise answer
        return answer


def read(
    worker: str, work: Connection, books: Books, renew: Callable[[str, list[int]], list[int]],
    buffers: list[Buffer], config: ReaderConfig,
) -> None:  # fmt: skip
    """Answer requests until the learner hangs up."""
    own = _Buffers(buffers)
    ingest = Ingest(
        books=books, quarantine=Quarantine(config.quarantine), families=config.families,
        config=config.ingest, worker=worker, generation=config.generation, seed=config.seed,
        allocate=own.take,
    )  # fmt: skip
    over = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(worker, ingest, renew, config.ingest.lease_s / 4, over),
        name=f"renew-{worker}", daemon=True,
    )  # fmt: skip
    renewing.start()
    had_nothing = False
    try:
        while True:
            flush, freed = work.recv()
            own.free.extend(freed)
            try:
                batch = ingest.next_batch(flush=flush)
            except StreamError as error:
                work.send(error)
                return
            if batch is not None:
                work.send((own.taken, replace(batch, crops=())))
            else:
                work.send(None)
                if had_nothing:
                    time.sleep(IDLE_S)  # an idle reader is not asked all the time
            had_nothing = batch is None
    except (EOFError, ConnectionError):
        return  # the learner has hung up, or is dead
    finally:
        over.set()
        renewing.join()


def _renew(
    worker: str, ingest: Ingest, renew: Callable[[str, list[int]], list[int]], every_s: float,
    over: threading.Event,
) -> None:  # fmt: skip
    while not over.wait(every_s):
        asked = list(ingest.tokens)
        if not asked:
            continue
        try:
            alive = renew(worker, asked)
        except StreamError as error:
            logger.warning("renewal_failed worker=%s error=%r", worker, str(error))
        except (EOFError, ConnectionError):
            return
        else:
            ingest.tokens.difference_update(set(asked) - set(alive))


def read_in_process(
    worker: str, work: Connection, calls: Connection, buffers: list[Buffer], config: ReaderConfig
) -> None:
    """What a reader process runs. Signals to a whole process group are for the learner to obey."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    books = _RemoteBooks(calls)
    read(worker, work, books, books.renew, buffers, config)
