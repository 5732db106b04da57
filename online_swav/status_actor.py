"""The Ray actor that outlives learner crashes: joins all reports, serves /metrics, keeps wishes."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from online_swav.config import RunConfig
from online_swav.console import status_json
from online_swav.errors import CheckpointError
from online_swav.events import Events
from online_swav.finding_events import FindingEvents
from online_swav.history import History, row
from online_swav.metrics_server import MetricsServer, serve_metrics
from online_swav.published import Published
from online_swav.run_rules import RunJudge
from online_swav.sinks import open_sinks
from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus, RunStatus
from streams.counts import SourceCounts

logger = logging.getLogger(__name__)

POLL_S = 1.0
STALE_S = 90.0
"""A probe, a checkpoint or a compilation may take a minute, and nothing is reported meanwhile."""
HISTORY_S = 5.0
MAX_STARTS_WITHOUT_PROGRESS = 4


class StatusActor:
    """One snapshot of the run for everyone: Prometheus, the terminal, `online-swav status`."""

    def __init__(
        self, config: RunConfig, *, config_digest: str, set_up: Callable[[], None]
    ) -> None:
        set_up()
        self._config = config
        self._run = Path(config.run)
        self._ledger: Any = None
        self._events = Events(self._run)
        self._history = History(self._run)
        self._history_at = float("-inf")
        self._sinks = open_sinks(config)
        self._judge = RunJudge(config)
        self._findings = FindingEvents(self._events)
        self._lock = threading.Lock()
        try:
            encoder = Published(self._run, keep=config.checkpoint.keep).newest()
        except CheckpointError as error:  # the next healthy checkpoint puts it right
            logger.warning("published_unknown error=%r", str(error))
            encoder = None
        self._status = RunStatus(
            run=self._run.name,
            config_digest=config_digest,
            started_at=time.time(),
            generation=0,
            state="starting",
            num_prototypes=config.learner.model.num_prototypes,
            checkpoint_every_s=config.checkpoint.every_s,
            published_step=encoder.step if encoder else None,
            published_at=encoder.at if encoder else None,
        )
        self._readers: dict[str, Any] = {}
        self._readers_version = -1
        self._stop = False
        self._starts: list[int] = []
        self._server: MetricsServer | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._poll, name="poll", daemon=True).start()

    def serve(self) -> int:
        """Open the metrics port once; the port.

        Raises:
            MetricsPortError: If it is taken.
        """
        if self._server is None:
            metrics = self._config.metrics
            self._server = serve_metrics(
                self.snapshot, host=metrics.host, port=metrics.port,
                report=self._run / "report.html",
            )  # fmt: skip
        return self._server.port

    # -- from the learners ---------------------------------------------------------------------

    def learner_started(self, step: int, *, went_back: bool) -> str | None:
        """A learner group begins at `step`; a reason to give up, if it crashes in a loop.

        Args:
            step: Of the checkpoint it resumed from.
            went_back: It rolled back by its own decision: that is no crash.
        """
        if went_back:
            with self._lock:
                self._starts = [step]
            return None
        with self._lock:
            if self._status.learner is not None:
                self._events.add("restarted", step=step, component="learner",
                                 reason="the learners crashed")  # fmt: skip
            self._starts = [s for s in self._starts if s == step] + [step]
            restarts = self._status.learner_restarts + (self._status.learner is not None)
            self._status = dataclasses.replace(self._status, learner_restarts=restarts)
            if len(self._starts) < MAX_STARTS_WITHOUT_PROGRESS:
                return None
        return (
            f"the learners crashed {len(self._starts) - 1} times in a row at step {step} without "
            "a checkpoint in between; see the log above for the cause"
        )

    def report(self, status: LearnerStatus) -> None:
        """The newest numbers of rank 0."""
        with self._lock:
            state = "stopping" if self._stop and status.state != "stopped" else status.state
            self._status = dataclasses.replace(self._status, learner=status, state=state)

    def checkpointed(self, status: CheckpointStatus | None) -> None:
        """A checkpoint was published, or failed."""
        with self._lock:
            s = self._status
            if status is None:
                s = dataclasses.replace(s, checkpoints_failed=s.checkpoints_failed + 1)
            else:
                s = dataclasses.replace(
                    s, checkpoint=status, checkpoints_published=s.checkpoints_published + 1
                )
                if status.encoder_published_at is not None:
                    s = dataclasses.replace(
                        s, published_step=status.step, published_at=status.encoder_published_at
                    )
                self._starts.clear()
            self._status = s

    def set_checkpoint(self, status: CheckpointStatus) -> None:
        """The checkpoint that the learners resumed from."""
        with self._lock:
            self._status = dataclasses.replace(self._status, checkpoint=status)

    def set_probes(self, probes: tuple[ProbeStatus, ...]) -> None:
        """All results of the surviving lineage."""
        with self._lock:
            self._status = dataclasses.replace(self._status, probes=probes)

    def finished(self, message: str, *, failed: bool, given_up: bool = False) -> None:
        """The learners ended, in order or with an error that its message explains."""
        with self._lock:
            learner = self._status.learner
            if given_up and not self._status.given_up and learner is not None:
                # No report of the learner tells this one.
                actions = learner.actions | {"give_up": learner.actions.get("give_up", 0) + 1}
                learner = dataclasses.replace(learner, actions=actions)
            self._status = dataclasses.replace(
                self._status, message=message, state="failed" if failed else "stopped",
                given_up=given_up, learner=learner,
            )  # fmt: skip

    # -- from the driver -----------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask the learners to finish their step, checkpoint and leave."""
        self._stop = True

    def wants_stop(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop

    def introduce(
        self, ledger: Any, *, readers: dict[str, Any], version: int,
        restarts: int, added: int, removed: int,
    ) -> None:  # fmt: skip
        """The ledger, and the living ingest actors by name; `version` grows with every change.

        Not constructor arguments: Ray cannot restart an actor whose arguments hold other actors.
        """
        with self._lock:
            if self._ledger is not None and restarts > self._status.ingest_restarts:
                for worker, reader in self._readers.items():
                    if worker in readers and readers[worker] != reader:
                        self._events.add("restarted", component="ingest",
                                         reason=f"{worker} died, or hung")  # fmt: skip
            self._ledger = ledger
            self._readers = readers
            self._readers_version = version
            self._status = dataclasses.replace(
                self._status, ingest_actors=len(readers), ingest_restarts=restarts,
                ingest_added=added, ingest_removed=removed,
            )  # fmt: skip

    def readers(self, known_version: int) -> tuple[int, dict[str, Any]] | None:
        """Version and ingest actors, or None when `known_version` is the current one."""
        with self._lock:
            if self._readers_version in (-1, known_version):
                return None
            return self._readers_version, self._readers

    def snapshot(self) -> RunStatus:
        """The newest status; a silent learner is down."""
        with self._lock:
            status = self._status
        learner = status.learner
        stale = max(STALE_S, 3 * self._config.report_every_s)
        up = (
            learner is not None
            and learner.state not in ("stopped", "failed")
            and time.time() - learner.reported_at < stale
        )
        return dataclasses.replace(status, learner_up=up)

    def close(self) -> None:
        """Write the last snapshot and free the port."""
        self._closed.set()
        self._refresh()
        self._sinks.close()
        if self._server is not None:
            self._server.close()

    # -- on its own ----------------------------------------------------------------------------

    def _poll(self) -> None:
        while not self._closed.wait(POLL_S):
            try:
                self._refresh()
            except (ray.exceptions.RayError, OSError) as error:
                logger.warning("status_refresh_failed error=%r", str(error))

    def _refresh(self) -> None:
        """Ask the ledger, and leave a snapshot in the run folder for `online-swav status`."""
        if self._ledger is None:
            return
        checkpoint = self._status.checkpoint
        books = ray.get(
            self._ledger.snapshot.remote(checkpoint.step if checkpoint else 0), timeout=30
        )
        disk = shutil.disk_usage(self._run)
        with self._lock:
            before = self._status.sources
            self._status = dataclasses.replace(
                self._status, disk_free_bytes=disk.free, disk_size_bytes=disk.total, **books
            )
        self._note_sources(before, books["sources"])
        now = time.time()
        found = self._judge.judge(self.snapshot(), now=now)
        with self._lock:
            self._status = dataclasses.replace(self._status, findings=found)
        step = self._status.learner.step if self._status.learner else 0
        self._findings.note(found, step=step)
        if now - self._history_at >= HISTORY_S:
            self._history_at = now
            values = row(self.snapshot(), now)
            self._history.add(values)
            self._sinks.log(values)
        staging = self._run / ".status.json"
        staging.write_text(status_json(self.snapshot()))
        staging.replace(self._run / "status.json")

    def _note_sources(self, before: dict[str, SourceCounts], now: dict[str, SourceCounts]) -> None:
        """Events for what the book has set aside since the last look."""
        for name, counts in now.items():
            old = before.get(name)
            if old is None:
                continue
            shards = counts.shards.get("quarantined", 0) - old.shards.get("quarantined", 0)
            images = sum(counts.dropped.values()) - sum(old.dropped.values())
            if shards > 0 or images > 0:
                self._events.add("quarantined", source=name, shards=shards, images=images)
            if counts.paused and not old.paused:
                self._events.add("source_paused", source=name, reason=counts.paused)
            if old.paused and not counts.paused:
                self._events.add("source_resumed", source=name)
