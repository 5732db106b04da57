"""Readers that read ahead of a learner on its own machine, without Ray.

    learner's process                                         reader
    Readers  ── flush?, a buffer that is free again ────────> Ingest
             <── number of a filled buffer, all but crops ───
    ledger   <───────── lease, finish, reject, renew ────────

The right side is `streams.reader_worker`.

One reader is a thread. Several are processes, since what Python does for each image holds its
lock: on two cores, two threads read 1.1 times as many images as one, two processes 1.5 times.

Crops stay where the reader cut them: in buffers of memory that both sides share and use again. The
memory has no name in the file system, and a pipe ends with the process at its other side; so
nothing is left behind, whoever is killed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait

import torch
from torch import multiprocessing as torch_multiprocessing

from streams.batch import Batch
from streams.errors import ReaderError, StreamError
from streams.ingest import empty_crops
from streams.ledger import Ledger
from streams.reader_worker import Answer, Buffer, ReaderConfig, arrays, read, read_in_process

logger = logging.getLogger(__name__)

WAIT_S = 0.2
BACKLOG_WEIGHT = 0.1


class _Reader:
    """One reader at work, as the learner sees it."""

    def __init__(self, worker: str, buffers: list[Buffer]) -> None:
        self.worker = worker
        self.buffers = buffers
        self.work, self._theirs = torch_multiprocessing.Pipe()
        self.requests = 0
        """Requests whose answers the learner has not used yet."""
        self.idle = False
        """Its last answer was that there is nothing to read."""
        self.freed: list[int] = []
        """Numbers of buffers that it may use again; told with the next request."""


class _ReaderThread(_Reader):
    def __init__(
        self, worker: str, buffers: list[Buffer], ledger: Ledger, config: ReaderConfig
    ) -> None:
        super().__init__(worker, buffers)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(ledger, config), name=worker, daemon=True
        )
        self._thread.start()

    def _run(self, ledger: Ledger, config: ReaderConfig) -> None:
        try:
            read(self.worker, self._theirs, ledger, ledger.renew, self.buffers, config)
        except BaseException as error:
            self._failure = error
        finally:
            self._theirs.close()

    def stop(self) -> None:
        """End it after the batch it is at."""
        self.work.close()
        self._thread.join()

    def explain_end(self) -> None:
        """Raise what ended it."""
        if self._failure is not None:
            raise self._failure


class _ReaderProcess(_Reader):
    def __init__(
        self, worker: str, buffers: list[Buffer], ledger: Ledger, config: ReaderConfig
    ) -> None:
        super().__init__(worker, buffers)
        # Not fork: this process has threads, and maybe a GPU. The server imports torch once.
        context = torch_multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", read.__module__])
        calls, their_calls = torch_multiprocessing.Pipe()
        self._process = context.Process(
            target=read_in_process, args=(worker, self._theirs, their_calls, buffers, config),
            name=worker, daemon=True,
        )  # fmt: skip
        self._process.start()
        # Now the reader alone holds its sides: they close when it dies.
        self._theirs.close()
        their_calls.close()
        self._called = False
        self._server = threading.Thread(
            target=self._serve, args=(calls, ledger), name=f"ledger-{worker}", daemon=True
        )
        self._server.start()

    def _serve(self, calls: Connection, ledger: Ledger) -> None:
        """Do what the reader asks of the ledger, until it ends."""
        with calls:
            while True:
                try:
                    method, args, options = calls.recv()
                    self._called = True
                    try:
                        answer = getattr(ledger, method)(*args, **options)
                    except StreamError as error:
                        answer = error
                    calls.send(answer)
                except (EOFError, OSError):
                    return

    def stop(self) -> None:
        """End it at once. Whatever it was at is as after a crash."""
        self.work.close()
        self._process.kill()
        self._process.join()
        self._server.join()

    def explain_end(self) -> None:
        """Raise if it never came to work; another one would not either.

        Raises:
            ReaderError: See above.
        """
        if not self._called:
            raise ReaderError(
                f"{self.worker} ended before it read anything (exit code "
                f"{self._process.exitcode}); its own error stands above. A script that trains with "
                'several readers needs `if __name__ == "__main__":`'
            )


class Readers:
    """Batches of all readers, `in_flight` of each read ahead.

    A batch's crops lie in its reader's buffer: they are valid until the next call of `next_batch`.
    A reader process that dies is replaced, and its shards go back to the book.

    Args:
        ledger: The book, in this process.
        config: What the readers do.

    Raises:
        ReaderError: If there is too little shared memory for the buffers.
    """

    def __init__(self, ledger: Ledger, config: ReaderConfig) -> None:
        self._ledger = ledger
        self._config = config
        self._kind = _ReaderThread if config.ingest.actors == 1 else _ReaderProcess
        self._answers: deque[tuple[_Reader, Answer]] = deque()
        self._empty: set[str] = set()
        self._lent: tuple[_Reader, int] | None = None
        self.backlog_ratio = 0.0
        """Share of the requests that were answered before the learner asked."""
        self._readers: dict[str, _ReaderThread | _ReaderProcess] = {}
        buffers = _allocate(config)
        for number, own in enumerate(buffers):
            worker = f"reader-{number:03d}"
            self._readers[worker] = self._kind(worker, own, ledger, config)

    @property
    def dry(self) -> bool:
        """Whether every reader said that there is nothing to read now."""
        return len(self._empty) == len(self._readers)

    def next_batch(self, *, flush: bool) -> Batch | None:
        """A batch, or None when none came within a moment. `flush` takes last partial ones.

        Raises:
            StreamError: What ended a reader.
        """
        if self.dry:  # to be so again, each must say so again
            self._empty.clear()
        self._request(flush=flush)
        self._receive(timeout=0)
        requests = sum(reader.requests for reader in self._readers.values())
        answered = len(self._answers) / max(requests, 1)
        self.backlog_ratio += BACKLOG_WEIGHT * (answered - self.backlog_ratio)
        if not self._answers:
            self._receive(timeout=WAIT_S)
        while self._answers:
            reader, answer = self._answers.popleft()
            reader.requests -= 1
            reader.idle = answer is None
            if answer is None:
                if not reader.requests:  # else a later answer says more
                    self._empty.add(reader.worker)
                continue
            if isinstance(answer, StreamError):
                raise answer
            number, told = answer
            self._empty.discard(reader.worker)
            self._lent = reader, number
            return Batch.of(
                arrays(reader.buffers[number]), told.origins, told.arrived_at,
                decode_s=told.decode_s, near_duplicates=told.near_duplicates,
            )  # fmt: skip
        return None

    def _request(self, *, flush: bool) -> None:
        if self._lent is not None:
            reader, number = self._lent
            reader.freed.append(number)
            self._lent = None
        for reader in self._readers.values():
            # A reader that had nothing is asked once at a time, so that it is not pestered.
            wanted = 1 if reader.idle else self._config.ingest.in_flight
            with suppress(ConnectionError):  # a dead one: `_receive` will see
                while reader.requests < wanted:
                    reader.work.send((flush, reader.freed))
                    reader.freed = []
                    reader.requests += 1

    def _receive(self, *, timeout: float) -> None:
        ready = wait([reader.work for reader in self._readers.values()], timeout)
        for reader in list(self._readers.values()):
            if reader.work not in ready:
                continue
            try:
                self._answers.append((reader, reader.work.recv()))
                while reader.work.poll():
                    self._answers.append((reader, reader.work.recv()))
            except (EOFError, OSError):
                self._replace(reader)

    def _replace(self, reader: _ReaderThread | _ReaderProcess) -> None:
        """A new reader in place of a dead one, in its buffers. What it had read is read again.

        Raises:
            StreamError: What ended the reader, if it said so.
        """
        reader.stop()
        for other, answer in self._answers:
            if other is reader and isinstance(answer, StreamError):
                raise answer  # it ended by itself, and said why
        self._answers = deque(item for item in self._answers if item[0] is not reader)
        reader.explain_end()
        logger.warning("ingest_died worker=%s", reader.worker)
        self._ledger.release(reader.worker, crashed=True)
        self._empty.discard(reader.worker)
        self._readers[reader.worker] = self._kind(
            reader.worker, reader.buffers, self._ledger, self._config
        )

    def close(self) -> None:
        """End every reader."""
        for reader in self._readers.values():
            reader.stop()


def _allocate(config: ReaderConfig) -> list[list[Buffer]]:
    """Buffers of every reader: for what it reads ahead, and one at the learner."""
    ingest = config.ingest
    buffers = [
        [
            tuple(map(torch.from_numpy, empty_crops(config.families, ingest.batch_size)))
            for _ in range(ingest.in_flight + 1)
        ]
        for _ in range(ingest.actors)
    ]
    if ingest.actors > 1:
        tensors = [family for own in buffers for buffer in own for family in buffer]
        try:
            for family in tensors:
                family.share_memory_()
        except RuntimeError as error:
            need = sum(family.nbytes for family in tensors) / 1e9
            raise ReaderError(
                f"{ingest.actors} readers need {need:.1f} GB of shared memory ({error}); lower "
                "ingest.actors, ingest.in_flight or ingest.batch_size, or enlarge /dev/shm"
            ) from error
    return buffers
