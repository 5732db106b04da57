"""Commits: the book flushed first, the checkpoint renamed into place second, then the encoder.

Rank 0 alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import RunConfig, to_yaml
from online_swav.errors import CheckpointError
from online_swav.events import Events
from online_swav.learning.findings import Health
from online_swav.learning.learner import Learner
from online_swav.lineage import Lineage
from online_swav.observer import Observer
from online_swav.protocols import Books, Desk
from online_swav.published import Published, encoder_card
from online_swav.status import CheckpointStatus, ProbeStatus
from streams.ledger_delta import Delta
from streams.ledger_schema import SHARD_COLUMNS

logger = logging.getLogger(__name__)

MAX_FAILED_CHECKPOINTS = 3
CHECKPOINT_RETRY_S = 30.0


class Committer:
    """See the module.

    Args:
        config: The run.
        learner: Whose state is committed.
        checkpoints: Of the run.
        books: The ledger.
        desk: Is told of checkpoints.
        observer: Called at the named points.
        events: Of the run.
        generation: Of this start of the learners; publishing is fenced by it.
        resumed: The checkpoint that the learner's state is from; None in a new run.
    """

    def __init__(
        self, config: RunConfig, *, learner: Learner, checkpoints: Checkpoints, books: Books,
        desk: Desk, observer: Observer, events: Events, generation: int,
        resumed: Checkpoint | None,
    ) -> None:  # fmt: skip
        self._config = config
        self._learner = learner
        self._checkpoints = checkpoints
        self._published = Published(Path(config.run), keep=config.checkpoint.keep)
        self._lineage = Lineage(Path(config.run))
        self._books = books
        self._desk = desk
        self._observer = observer
        self._events = events
        self._generation = generation
        self._step = resumed.manifest.step if resumed else -1
        self._version = resumed.manifest.ledger_version if resumed else 0
        self._failed = 0
        self._looked_at = self._retry_at = time.monotonic()

    def due(self, now: float) -> bool:
        """Whether a checkpoint is due; `now` is of the monotonic clock."""
        steps = self._learner.step_count - max(self._step, 0)
        limits = self._config.checkpoint
        return now >= self._retry_at and (
            steps >= limits.every_steps or (steps > 0 and now - self._looked_at >= limits.every_s)
        )

    def looked(self) -> None:
        """Whether to commit was asked just now: the interval begins anew, whatever the answer."""
        self._looked_at = time.monotonic()

    def commit(self, health: Health, probes: Sequence[ProbeStatus], *, last: bool) -> bool:
        """Flush the book, publish the checkpoint, fold what can never be rolled back.

        Returns:
            Whether the newest checkpoint is of this step now.

        Raises:
            CheckpointError: If it fails at the end, or again and again.
        """
        learner = self._learner
        if learner.step_count == self._step:
            return True
        begun = time.monotonic()
        try:
            checkpoint = self._publish(health, probes)
        except CheckpointError as error:
            self._desk.checkpointed(None)
            self._events.add("checkpoint_failed", step=learner.step_count, reason=str(error))
            self._failed += 1
            if last or self._failed >= MAX_FAILED_CHECKPOINTS:
                raise
            self._retry_at = time.monotonic() + CHECKPOINT_RETRY_S
            logger.error("checkpoint_failed error=%r", str(error))
            return False
        self._failed = 0
        published_at = self._publish_encoder(checkpoint, health, probes)
        self._lineage.drop_old_bases()
        self._books.fold(self._checkpoints.prune())
        if self._lineage.base_due():
            self._books.copy_to(self._lineage.base_path(checkpoint))
        manifest = checkpoint.manifest
        self._step = manifest.step
        self._version = manifest.ledger_version
        seconds = time.monotonic() - begun
        self._desk.checkpointed(
            CheckpointStatus(step=manifest.step, published_at=manifest.created_at,
                             duration_s=seconds, size_bytes=checkpoint.size_bytes,
                             encoder_published_at=published_at)
        )  # fmt: skip
        self._events.add("checkpoint", step=manifest.step, verdict=health.verdict,
                         seconds=round(seconds, 3), size_bytes=checkpoint.size_bytes)  # fmt: skip
        logger.info("checkpoint_published step=%d seconds=%.2f verdict=%s",
                    manifest.step, seconds, health.verdict)  # fmt: skip
        return True

    def _publish(self, health: Health, probes: Sequence[ProbeStatus]) -> Checkpoint:
        learner = self._learner
        self._books.flush()
        self._observer.at("after_flush", step=learner.step_count, origins=())
        delta = self._books.delta(
            step=learner.step_count, since_step=self._step, since_version=self._version
        )
        checkpoint = self._checkpoints.publish(
            step=learner.step_count,
            samples_seen=learner.samples_seen,
            parent_step=self._step,
            created_at=time.time(),
            verdict=health.verdict,
            findings=tuple(finding.name for finding in health.findings),
            probes=tuple(asdict(probe) for probe in probes),
            learner_state=learner.state_dict(),
            delta=delta,
            config_yaml=to_yaml(self._config),
            generation=self._generation,
            on_rename=partial(
                self._observer.at, "after_rename", step=learner.step_count, origins=()
            ),
        )
        self._observer.at("after_publish", step=learner.step_count, origins=())
        return checkpoint

    def _publish_encoder(
        self, checkpoint: Checkpoint, health: Health, probes: Sequence[ProbeStatus]
    ) -> float | None:
        """Put the backbone into `published/` if it is healthy; when, in unix seconds."""
        if health.verdict != "ok":
            return None
        learner = self._learner
        delta = checkpoint.delta()
        card = encoder_card(
            self._config, samples_seen=learner.samples_seen, verdict=health.verdict,
            probe=asdict(probes[-1]) if probes else None,
        ) | {
            "lineage": {
                "checkpoint": checkpoint.path.name,
                "parent_step": delta.parent_step,
                "ledger_versions": [self._version, delta.version],
            },
            "shards_up_to": _newest_shard(delta),
        }  # fmt: skip
        head = {
            name: value for name, value in learner.model.state_dict().items()
            if not name.startswith("backbone.")
        }  # fmt: skip
        try:
            encoder = self._published.publish(
                learner.model.backbone, step=learner.step_count, card=card, head=head
            )
        except CheckpointError as error:  # the checkpoint is safe: the next one publishes again
            logger.error("publish_failed error=%r", str(error))
            return None
        self._events.add("published", step=learner.step_count)
        return encoder.at


def _newest_shard(delta: Delta) -> dict[str, object] | None:
    """The shard found last among those that were trained since the checkpoint before."""
    trained = {number for _, _, number, _, _ in delta.claims}
    rows = [dict(zip(SHARD_COLUMNS, row, strict=True)) for row in delta.shards]
    newest = max((row for row in rows if row["number"] in trained),
                 key=lambda row: row["number"], default=None)  # fmt: skip
    if newest is None:
        return None
    return {name: newest[name] for name in ("number", "url", "source", "discovered_at")}
