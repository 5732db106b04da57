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
from online_swav.metrics_server import MetricsServer, serve_metrics
from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus, RunStatus

logger = logging.getLogger(__name__)

POLL_S = 1.0
STALE_S = 30.0
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
        self._lock = threading.Lock()
        self._status = RunStatus(
            run=self._run.name,
            config_digest=config_digest,
            started_at=time.time(),
            generation=0,
            state="starting",
            num_prototypes=config.learner.model.num_prototypes,
            checkpoint_every_s=config.checkpoint.every_s,
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
            self._server = serve_metrics(self.snapshot, host=metrics.host, port=metrics.port)
        return self._server.port

    # -- from the learners ---------------------------------------------------------------------

    def learner_started(self, step: int) -> str | None:
        """A learner group begins at `step`; a reason to give up, if it crashes in a loop."""
        with self._lock:
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

    def finished(self, message: str, *, failed: bool) -> None:
        """The learners ended, in order or with an error that its message explains."""
        with self._lock:
            self._status = dataclasses.replace(
                self._status, message=message, state="failed" if failed else "stopped"
            )

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
        free = shutil.disk_usage(self._run).free
        with self._lock:
            self._status = dataclasses.replace(self._status, disk_free_bytes=free, **books)
        staging = self._run / ".status.json"
        staging.write_text(status_json(self.snapshot()))
        staging.replace(self._run / "status.json")
