"""What the trainer asks of the outside: a feed of batches, the books, a desk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus
from streams.batch import Batch
from streams.ledger_delta import Delta
from streams.shard import Origin


class Feed(Protocol):
    """Where batches come from."""

    def next_batch(self, *, flush: bool) -> Batch | None:
        """A batch, or None when none came within a moment. `flush` takes a last partial one."""

    @property
    def dry(self) -> bool:
        """Whether every reader said that there is nothing to read now."""

    @property
    def backlog_ratio(self) -> float:
        """Share of the requests to readers that were answered before they were asked for."""


class Books(Protocol):
    """What a learner asks of the ledger, in one generation."""

    def claim(self, origins: Sequence[Origin], *, rank: int, step: int) -> list[bool]:
        """See `Ledger.claim`."""

    def flush(self) -> None:
        """See `Ledger.flush`."""

    def delta(self, *, step: int, since_step: int, since_version: int) -> Delta:
        """See `Ledger.delta`."""

    def fold(self, step: int) -> int:
        """See `Ledger.fold`."""

    def copy_to(self, path: Path) -> object:
        """See `Ledger.copy_to`."""

    def replay(self) -> int:
        """See `Ledger.replay`."""

    def pending(self) -> int:
        """See `Ledger.pending`; and tars that have not settled yet."""


class Desk(Protocol):
    """Where reports go and wishes come from. No call may block on the network."""

    def report(self, status: LearnerStatus) -> None:
        """The newest numbers."""

    def checkpointed(self, status: CheckpointStatus | None) -> None:
        """A checkpoint was published, or failed (None)."""

    def probed(self, status: ProbeStatus) -> None:
        """The labelled probe has a result."""

    def wants_stop(self) -> bool:
        """Whether someone asked the run to stop."""
