"""One learner rank inside Ray Train: the run's actors as the trainer's feed, books and desk."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from online_swav.assemble import build_probe, choose_device, learner_threads, start_learner
from online_swav.caretaker import StartAgain
from online_swav.checkpoint import Checkpoints
from online_swav.config import RunConfig
from online_swav.errors import GivenUp, OnlineSwavError, SupersededError
from online_swav.events import Events
from online_swav.learning.learner import NonFiniteLossError
from online_swav.observer import load_observer
from online_swav.parallel import current_ranks, vote
from online_swav.remedies import load_remedies
from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus
from online_swav.trainer import Trainer
from streams.batch import Batch
from streams.errors import LeaseLost, StreamError
from streams.ledger_delta import Delta
from streams.shard import Origin

logger = logging.getLogger(__name__)

WAIT_S = 0.2
ASK_READERS_EVERY_S = 2.0
BACKLOG_WEIGHT = 0.1


class RemoteFeed:
    """Keeps `in_flight` requests open at each ingest actor of this rank.

    Actors are dealt to ranks in turn; with fewer actors than ranks, some ranks share one. A dead
    actor's requests are dropped: the images of a lost batch were never claimed, and the ledger
    offers them again.
    """

    def __init__(
        self, status: Any, *, generation: int, rank: int, ranks: int, in_flight: int
    ) -> None:
        self._status = status
        self._generation = generation
        self._rank = rank
        self._ranks = ranks
        self._in_flight = in_flight
        self._readers: dict[str, Any] = {}
        self._version = -1
        self._asked_at = float("-inf")
        self._requests: dict[Any, str] = {}
        self._empty: set[str] = set()
        self.backlog_ratio = 0.0

    @property
    def dry(self) -> bool:
        """See `protocols.Feed`. Asked after each of its actors answered with nothing."""
        return bool(self._readers) and self._empty >= self._readers.keys()

    def next_batch(self, *, flush: bool) -> Batch | None:
        """See `protocols.Feed`."""
        self._update_readers()
        self._request(flush=flush)
        if not self._requests:
            time.sleep(WAIT_S)
            return None
        waiting = list(self._requests)
        answered, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        self.backlog_ratio += BACKLOG_WEIGHT * (len(answered) / len(waiting) - self.backlog_ratio)
        ready, _ = ray.wait(waiting, num_returns=1, timeout=WAIT_S)
        if not ready:
            return None
        worker = self._requests.pop(ready[0])
        try:
            batch: Batch | None = ray.get(ready[0])
        except ray.exceptions.RayActorError:
            self._forget(worker)
            return None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamError):
                raise error.cause from None
            raise
        if batch is None:
            self._empty.add(worker)
            if self.dry:
                time.sleep(WAIT_S)
            return None
        self._empty.discard(worker)
        return batch

    def _request(self, *, flush: bool) -> None:
        for worker, reader in self._readers.items():
            # An actor that had nothing is asked once at a time, so that it is not pestered.
            wanted = 1 if worker in self._empty else self._in_flight
            for _ in range(wanted - list(self._requests.values()).count(worker)):
                request = reader.next_batch.remote(self._generation, flush=flush)
                self._requests[request] = worker

    def _forget(self, worker: str) -> None:
        self._readers.pop(worker, None)
        self._empty.discard(worker)
        self._requests = {r: w for r, w in self._requests.items() if w != worker}

    def _update_readers(self) -> None:
        now = time.monotonic()
        if self._readers and now - self._asked_at < ASK_READERS_EVERY_S:
            return
        self._asked_at = now
        news = ray.get(self._status.readers.remote(self._version))
        if news is None:
            return
        self._version, everyone = news
        workers = sorted(everyone)
        mine = workers[self._rank :: self._ranks] or workers[self._rank % len(workers) :][:1]
        for worker in list(self._readers):
            if worker not in mine or self._readers[worker] != everyone[worker]:
                self._forget(worker)
        for worker in mine:
            self._readers.setdefault(worker, everyone[worker])


class RemoteBooks:
    """The ledger actor as `protocols.Books` of one generation."""

    def __init__(self, ledger: Any, generation: int) -> None:
        self._ledger = ledger
        self._generation = generation

    def claim(self, origins: Sequence[Origin], *, rank: int, step: int) -> list[bool]:
        """See `Ledger.claim`."""
        granted: list[bool] = _ask(
            self._ledger.claim.remote(origins, generation=self._generation, rank=rank, step=step)
        )
        return granted

    def flush(self) -> None:
        """See `Ledger.flush`."""
        _ask(self._ledger.flush.remote())

    def delta(self, *, step: int, since_step: int, since_version: int) -> Delta:
        """See `Ledger.delta`."""
        delta: Delta = _ask(
            self._ledger.delta.remote(step=step, since_step=since_step, since_version=since_version)
        )
        return delta

    def fold(self, step: int) -> int:
        """See `Ledger.fold`."""
        return int(_ask(self._ledger.fold.remote(step)))

    def copy_to(self, path: Path) -> None:
        """See `Ledger.copy_to`; it goes on while the learner trains."""
        self._ledger.copy_to.remote(str(path))

    def replay(self) -> int:
        """See `Ledger.replay`."""
        return int(_ask(self._ledger.replay.remote()))

    def pending(self) -> int:
        """See `Ledger.pending`."""
        return int(_ask(self._ledger.pending.remote()))


class RemoteDesk:
    """The status actor as `protocols.Desk`: nothing here waits for an answer."""

    def __init__(self, status: Any, probes: Sequence[ProbeStatus]) -> None:
        self._status = status
        self._probes = list(probes)
        self._wish: Any = None
        self._stop = False

    def report(self, status: LearnerStatus) -> None:
        """See `protocols.Desk`."""
        self._status.report.remote(status)

    def checkpointed(self, status: CheckpointStatus | None) -> None:
        """See `protocols.Desk`."""
        self._status.checkpointed.remote(status)

    def probed(self, status: ProbeStatus) -> None:
        """See `protocols.Desk`."""
        self._probes.append(status)
        self._status.set_probes.remote(tuple(self._probes))

    def wants_stop(self) -> bool:
        """See `protocols.Desk`. The answer is that of a question asked a turn or more ago."""
        if self._wish is None:
            self._wish = self._status.wants_stop.remote()
        elif ray.wait([self._wish], timeout=0)[0]:
            self._stop = self._stop or bool(ray.get(self._wish))
            self._wish = None
        return self._stop


def _ask(reference: Any) -> Any:
    """The answer of a call; an error of ours arrives as itself, not wrapped by Ray."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamError):
            raise error.cause from None
        raise


def learner_loop(loop_config: dict[str, Any]) -> None:
    """What Ray Train runs on every rank.

    An error that its message explains ends the run; any other one is a crash, and Ray Train starts
    the group again from the newest checkpoint.
    """
    config: RunConfig = loop_config["config"]
    set_up: Callable[[], None] = loop_config["set_up"]
    ledger, status = loop_config["ledger"], loop_config["status"]
    set_up()
    ranks = current_ranks()
    torch.set_num_threads(learner_threads(config, ranks=ranks.size))
    events = Events(Path(config.run))
    try:
        reason = _run_until_stopped(config, ranks, ledger, status)
    except (LeaseLost, SupersededError) as error:
        # Left over, or outrun while starting. If this group is the newest, it may start again.
        logger.warning("learner_superseded rank=%d reason=%r", ranks.rank, str(error))
        raise
    except (OnlineSwavError, StreamError, NonFiniteLossError) as error:
        logger.error("run_failed error=%r", str(error))
        if ranks.rank == 0:
            events.add("failed", reason=str(error))
        given_up = isinstance(error, GivenUp)
        if given_up and ranks.rank != 0:
            return  # rank 0 has the story
        _ask(status.finished.remote(str(error), failed=True, given_up=given_up))
        return
    except Exception:
        logger.exception("learner_crashed rank=%d", ranks.rank)
        raise
    if ranks.rank == 0:
        events.add("stopped", reason=reason)
        _ask(status.finished.remote(reason, failed=False))


def _run_until_stopped(config: RunConfig, ranks: Any, ledger: Any, status: Any) -> str:
    went_back = False
    while True:
        try:
            return _run_rank(config, ranks, ledger, status, went_back=went_back)
        except StartAgain as reason:
            logger.warning("starting_again rank=%d reason=%r", ranks.rank, str(reason))
            went_back = True
        gc.collect()  # two learners do not fit a GPU


def _run_rank(config: RunConfig, ranks: Any, ledger: Any, status: Any, *, went_back: bool) -> str:
    """From the newest checkpoint on, until the run stops or goes back."""
    device = choose_device(config)
    checkpoints = Checkpoints(Path(config.run), keep=config.checkpoint.keep)
    if ranks.rank == 0:
        checkpoints.recover()
    vote(ranks, [True])  # nobody loads before rank 0 has put the folder in order
    learner, resumed = start_learner(config, ranks=ranks, device=device)
    probes = tuple(ProbeStatus(**p) for p in resumed.manifest.probes) if resumed else ()  # type: ignore[arg-type]
    changed = load_remedies(Path(config.run)).adjustments
    seen = torch.tensor(
        [learner.step_count, changed.lr_factor, changed.epsilon_factor, changed.frozen_until_step],
        dtype=torch.float64, device=device,
    )  # fmt: skip
    if not torch.equal(ranks.max(seen), -ranks.max(-seen)):
        raise SupersededError("the ranks resumed from different checkpoints or remedies")
    agreed = torch.zeros(1, dtype=torch.int64, device=device)
    if ranks.rank == 0:
        give_up = _ask(status.learner_started.remote(learner.step_count, went_back=went_back))
        if give_up:
            raise OnlineSwavError(give_up)
        agreed += _ask(ledger.begin.remote(learner.step_count))
        checkpoints.fence(int(agreed), resumed=resumed)
        _ask(status.set_probes.remote(probes))
        if resumed is not None:
            manifest = resumed.manifest
            _ask(status.set_checkpoint.remote(
                CheckpointStatus(step=manifest.step, published_at=manifest.created_at,
                                 duration_s=0.0, size_bytes=resumed.size_bytes)
            ))  # fmt: skip
    generation = int(ranks.max(agreed))
    if ranks.rank == 0:
        Events(Path(config.run)).add(
            "resumed" if resumed else "started", step=learner.step_count,
            samples=learner.samples_seen, generation=generation, ranks=ranks.size,
        )  # fmt: skip
    trainer = Trainer(
        config,
        learner=learner,
        ranks=ranks,
        feed=RemoteFeed(status, generation=generation, rank=ranks.rank, ranks=ranks.size,
                        in_flight=config.ingest.in_flight),
        books=RemoteBooks(ledger, generation),
        desk=RemoteDesk(status, probes),
        generation=generation,
        resumed=resumed,
        probe=build_probe(config, device=device) if ranks.rank == 0 else None,
        observer=load_observer(config.observer, run=Path(config.run), rank=ranks.rank,
                               generation=generation),
    )  # fmt: skip
    return trainer.run()
