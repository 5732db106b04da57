"""Ray shells of the stream: thin, and the only file of this package that imports Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from streams.batch import Batch
from streams.config import BudgetConfig, CropFamily, IngestConfig, SourceConfig
from streams.counts import SourceCounts
from streams.decisions import Decisions, apply_all
from streams.errors import LeaseLost, LedgerError, SourceError, StreamError
from streams.ingest import Ingest, empty_crops
from streams.ledger import Ledger
from streams.ledger_delta import Delta
from streams.quarantine import Quarantine
from streams.shard import Lease, Origin
from streams.sources import DirectorySource

logger = logging.getLogger(__name__)


class LedgerActor:
    """Owns the book and watches the sources. Every call is idempotent, so Ray may retry it."""

    def __init__(
        self,
        path: str,
        *,
        sources: dict[str, str],
        discovery: SourceConfig,
        ingest: IngestConfig,
        budget: BudgetConfig,
        decisions: str,
        set_up: Callable[[], None],
    ) -> None:
        set_up()
        self._ledger = Ledger(
            Path(path), lease_s=ingest.lease_s, max_attempts=ingest.max_attempts, budget=budget
        )
        self._decisions = Decisions(Path(decisions))
        self._sources = [
            DirectorySource(name, pattern, settle_s=discovery.settle_s)
            for name, pattern in sources.items()
        ]
        self._poll_s = discovery.poll_s
        self._source_errors = dict.fromkeys(sources, 0)
        self._polled = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._discover, name="discovery", daemon=True)
        self._thread.start()

    def _discover(self) -> None:
        while not self._closed.is_set():
            apply_all(self._decisions, self._ledger)
            for source in self._sources:
                try:
                    news = source.poll()
                    added = self._ledger.add(news)
                    source.take(news)  # not before they are in the book: a failed call loses none
                    if added:
                        logger.info("shards_discovered source=%s shards=%d", source.name, added)
                except SourceError as error:
                    self._source_errors[source.name] += 1
                    logger.warning("source_failed source=%s error=%r", source.name, str(error))
                except LedgerError as error:  # the learners meet it too, and end the run
                    logger.error("ledger_failed error=%r", str(error))
            self._polled.set()
            self._closed.wait(self._poll_s)

    def lease(self, worker: str, *, generation: int) -> Lease | None:
        """See `Ledger.lease`. Waits for the first listing, so that a start is not an idle one."""
        self._polled.wait()
        return self._ledger.lease(worker, generation=generation)

    def renew(self, worker: str, tokens: Sequence[int]) -> list[int]:
        """See `Ledger.renew`."""
        return self._ledger.renew(worker, tokens)

    def finish(self, lease: Lease, *, num_samples: int, fault: str | None) -> None:
        """See `Ledger.finish`."""
        self._ledger.finish(lease, num_samples=num_samples, fault=fault)

    def reject(self, lease: Lease, *, index: int, reason: str) -> bool:
        """See `Ledger.reject`."""
        return self._ledger.reject(lease, index=index, reason=reason)

    def quarantine(self, lease: Lease, *, fault: str) -> None:
        """See `Ledger.quarantine`."""
        self._ledger.quarantine(lease, fault=fault)

    def release(self, worker: str, *, crashed: bool) -> int:
        """See `Ledger.release`."""
        return self._ledger.release(worker, crashed=crashed)

    def begin(self, step: int) -> int:
        """See `Ledger.begin`."""
        return self._ledger.begin(step)

    def claim(
        self, origins: Sequence[Origin], *, generation: int, rank: int, step: int
    ) -> list[bool]:
        """See `Ledger.claim`."""
        return self._ledger.claim(origins, generation=generation, rank=rank, step=step)

    def flush(self) -> None:
        """See `Ledger.flush`."""
        self._ledger.flush()

    def delta(self, *, step: int, since_step: int, since_version: int) -> Delta:
        """See `Ledger.delta`."""
        return self._ledger.delta(step=step, since_step=since_step, since_version=since_version)

    def fold(self, step: int) -> int:
        """See `Ledger.fold`."""
        return self._ledger.fold(step)

    def copy_to(self, path: str) -> None:
        """See `Ledger.copy_to`. Nobody waits: what fails is logged, and tried again later."""
        try:
            self._ledger.copy_to(Path(path))
        except LedgerError as error:
            logger.warning("ledger_copy_failed error=%r", str(error))

    def replay(self) -> int:
        """See `Ledger.replay`."""
        return self._ledger.replay()

    def pending(self) -> int:
        """See `Ledger.pending`; and tars that have not settled yet."""
        self._polled.wait()
        return self._ledger.pending() + sum(source.settling for source in self._sources)

    def snapshot(self, committed_step: int) -> dict[str, Any]:
        """Counts, source errors, size and generation, for the run's status."""
        counts: dict[str, SourceCounts] = {
            name: SourceCounts() for name in self._source_errors
        } | self._ledger.counts(committed_step=committed_step)
        return {
            "sources": counts,
            "source_errors": {s.name: self._source_errors[s.name] + s.left_out
                              for s in self._sources},
            "ledger_bytes": self._ledger.size_bytes,
            "generation": self._ledger.generation,
        }  # fmt: skip

    def close(self) -> None:
        """Stop watching and make the book durable."""
        self._closed.set()
        self._thread.join()
        self._ledger.close()


class _RemoteBooks:
    """The ledger actor as `streams.ingest.Books`."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def lease(self, worker: str, *, generation: int) -> Lease | None:
        lease: Lease | None = _ask(self._ledger.lease.remote(worker, generation=generation))
        return lease

    def finish(self, lease: Lease, *, num_samples: int, fault: str | None) -> None:
        _ask(self._ledger.finish.remote(lease, num_samples=num_samples, fault=fault))

    def reject(self, lease: Lease, *, index: int, reason: str) -> bool:
        return bool(_ask(self._ledger.reject.remote(lease, index=index, reason=reason)))

    def quarantine(self, lease: Lease, *, fault: str) -> None:
        _ask(self._ledger.quarantine.remote(lease, fault=fault))


def _ask(reference: Any) -> Any:
    """The answer of a call; an error of ours arrives as itself, not wrapped by Ray."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamError):
            raise error.cause from None
        raise


class IngestActor:
    """One reader: produces a batch per request, and keeps its leases alive meanwhile."""

    def __init__(
        self,
        worker: str,
        ledger: Any,
        *,
        families: tuple[CropFamily, ...],
        config: IngestConfig,
        seed: int,
        quarantine: str,
        set_up: Callable[[], None],
    ) -> None:
        set_up()
        self._worker = worker
        self._ledger = ledger
        self._families = families
        self._config = config
        self._seed = seed
        self._quarantine = Quarantine(Path(quarantine))
        self._generation = -1
        self._ingest: Ingest | None = None
        threading.Thread(target=self._renew, name="renew", daemon=True).start()

    def next_batch(self, generation: int, *, flush: bool) -> Batch | None:
        """A batch for the learner of `generation`; None when there is nothing to read now."""
        if generation < self._generation:
            return None
        if generation > self._generation or self._ingest is None:
            self._generation = generation
            # Ray has copied a batch into its store before it makes the next call: one place will
            # do, and no batch pays for fresh pages.
            place = empty_crops(self._families, self._config.batch_size)
            self._ingest = Ingest(
                books=_RemoteBooks(self._ledger), quarantine=self._quarantine,
                families=self._families, config=self._config, worker=self._worker,
                generation=generation, seed=self._seed,
                allocate=lambda: place,
            )  # fmt: skip
        try:
            return self._ingest.next_batch(flush=flush)
        except LeaseLost:
            self._ingest = None
            return None

    @ray.method(concurrency_group="control")
    def ping(self) -> None:
        """Answer, as a sign of life."""

    def _renew(self) -> None:
        while True:
            time.sleep(self._config.lease_s / 4)
            ingest = self._ingest
            if ingest is not None and ingest.tokens:
                asked = list(ingest.tokens)
                try:
                    alive = _ask(self._ledger.renew.remote(self._worker, asked))
                except (StreamError, ray.exceptions.RayError) as error:
                    logger.warning("renewal_failed worker=%s error=%r", self._worker, str(error))
                    continue
                ingest.tokens.difference_update(set(asked) - set(alive))
