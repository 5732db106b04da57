"""A whole run in one process, without Ray: for tests, benchmarks and single-GPU experiments.

The same trainer, ledger and ingest; only the wiring is direct. One rank; `ingest.actors` readers
that read ahead, one in a thread, several as processes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from online_swav.assemble import (
    build_probe,
    choose_device,
    learner_threads,
    open_ledger,
    start_learner,
)
from online_swav.caretaker import StartAgain
from online_swav.checkpoint import Checkpoints
from online_swav.config import RunConfig
from online_swav.events import Events
from online_swav.learning.ranks import SINGLE_RANK
from online_swav.observer import load_observer
from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus
from online_swav.trainer import Trainer
from streams.batch import Batch
from streams.decisions import Decisions, apply_all
from streams.ledger import Ledger
from streams.ledger_delta import Delta
from streams.reader_processes import Readers
from streams.reader_worker import ReaderConfig
from streams.shard import Origin
from streams.sources import DirectorySource, parse_sources


@dataclass(slots=True)
class RecordingDesk:
    """Keeps what the trainer reports; `stop` asks it to stop."""

    reports: list[LearnerStatus] = field(default_factory=list)
    checkpoints: list[CheckpointStatus | None] = field(default_factory=list)
    probes: list[ProbeStatus] = field(default_factory=list)
    on_report: Callable[[LearnerStatus], None] = lambda _status: None
    stop: bool = False

    def report(self, status: LearnerStatus) -> None:
        """See `protocols.Desk`."""
        self.reports.append(status)
        self.on_report(status)

    def checkpointed(self, status: CheckpointStatus | None) -> None:
        """See `protocols.Desk`."""
        self.checkpoints.append(status)

    def probed(self, status: ProbeStatus) -> None:
        """See `protocols.Desk`."""
        self.probes.append(status)

    def wants_stop(self) -> bool:
        """See `protocols.Desk`."""
        return self.stop


class GenerationBooks:
    """A ledger in this process as `protocols.Books` of one generation."""

    def __init__(self, ledger: Ledger, generation: int, sources: Sequence[DirectorySource]) -> None:
        self._ledger = ledger
        self._generation = generation
        self._sources = sources
        self.flush = ledger.flush
        self.fold = ledger.fold
        self.replay = ledger.replay
        self.copy_to = ledger.copy_to

    def pending(self) -> int:
        """See `Ledger.pending`; and tars that have not settled yet."""
        return self._ledger.pending() + sum(source.settling for source in self._sources)

    def claim(self, origins: Sequence[Origin], *, rank: int, step: int) -> list[bool]:
        """See `Ledger.claim`."""
        return self._ledger.claim(origins, generation=self._generation, rank=rank, step=step)

    def delta(self, *, step: int, since_step: int, since_version: int) -> Delta:
        """See `Ledger.delta`."""
        return self._ledger.delta(step=step, since_step=since_step, since_version=since_version)


class PollingFeed:
    """Lists the sources in the learner's thread, and hands on what the readers have read."""

    def __init__(
        self, readers: Readers, ledger: Ledger, sources: Sequence[DirectorySource],
        decisions: Decisions, poll_s: float,
    ) -> None:  # fmt: skip
        self._readers = readers
        self._ledger = ledger
        self._decisions = decisions
        self._sources = sources
        self._poll_s = poll_s
        self._polled_at = float("-inf")

    @property
    def dry(self) -> bool:
        """See `protocols.Feed`."""
        return self._readers.dry

    @property
    def backlog_ratio(self) -> float:
        """See `protocols.Feed`."""
        return self._readers.backlog_ratio

    def next_batch(self, *, flush: bool) -> Batch | None:
        """See `protocols.Feed`."""
        if time.monotonic() - self._polled_at >= self._poll_s:
            apply_all(self._decisions, self._ledger)
            for source in self._sources:
                news = source.poll()
                self._ledger.add(news)
                source.take(news)
            self._polled_at = time.monotonic()
        return self._readers.next_batch(flush=flush)


def train_in_process(
    config: RunConfig, desk: RecordingDesk, *, probe: Callable[[nn.Module], float] | None = None
) -> str:
    """Run until stopped; the reason in words. Resumes from the run folder by itself.

    Args:
        config: The run.
        desk: Takes the reports, and passes on the wish to stop.
        probe: Measures a frozen backbone, in place of k-NN on `config.probe_train`.

    Raises:
        GivenUp: If the representation is unwell, and every remedy was in vain.
    """
    torch.set_num_threads(learner_threads(config, ranks=1))
    while True:
        try:
            reason = _train_generation(config, desk, probe)
        except StartAgain:
            gc.collect()  # two learners do not fit a GPU
            continue
        Events(Path(config.run)).add("stopped", reason=reason)
        return reason


def _train_generation(
    config: RunConfig, desk: RecordingDesk, probe: Callable[[nn.Module], float] | None
) -> str:
    """From the newest checkpoint on, until the run stops or goes back."""
    device = choose_device(config)
    checkpoints = Checkpoints(Path(config.run), keep=config.checkpoint.keep)
    checkpoints.recover()
    with closing(open_ledger(config)) as ledger:
        learner, resumed = start_learner(config, ranks=SINGLE_RANK, device=device)
        generation = ledger.begin(learner.step_count)
        checkpoints.fence(generation, resumed=resumed)
        Events(Path(config.run)).add(
            "resumed" if resumed else "started", step=learner.step_count,
            samples=learner.samples_seen, generation=generation, ranks=1,
        )  # fmt: skip
        sources = [
            DirectorySource(name, pattern, settle_s=config.discovery.settle_s)
            for name, pattern in parse_sources(list(config.source)).items()
        ]
        observer = load_observer(
            config.observer, run=Path(config.run), rank=0, generation=generation
        )
        told = ReaderConfig(
            families=config.crops,
            ingest=config.ingest,
            quarantine=Path(config.run) / "quarantine",
            generation=generation,
            seed=config.seed,
        )
        with closing(Readers(ledger, told)) as readers:
            return Trainer(
                config,
                learner=learner,
                ranks=SINGLE_RANK,
                feed=PollingFeed(
                    readers,
                    ledger,
                    sources,
                    Decisions(Path(config.run) / "decisions"),
                    config.discovery.poll_s,
                ),
                books=GenerationBooks(ledger, generation, sources),
                desk=desk,
                generation=generation,
                resumed=resumed,
                probe=probe or build_probe(config, device=device),
                observer=observer,
            ).run()
