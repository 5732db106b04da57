"""Totals of the books, per source. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

SHARD_STATES = ("unread", "leased", "delivered", "done", "quarantined")
"""Every shard is in exactly one.

`unread` waits for a reader; `leased` is being read; `delivered` was read to its end, but some of
its images are not yet claimed; `done` has a known fate for every sample; `quarantined` could not
be read at all.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """What the ledger knows of one source."""

    shards: dict[str, int] = field(default_factory=dict)
    """Number of shards by state (`SHARD_STATES`)."""
    samples_known: int = 0
    """Samples in shards that were read to their end."""
    trained: int = 0
    """Samples claimed by a step for the first time (a rollback lowers it)."""
    replayed: int = 0
    """Claims of later passes, counted apart from first-time training."""
    uncommitted: int = 0
    """Claims above the newest checkpoint's step: read again after a crash now."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Samples that cannot be used, by reason (`streams.shard.DROP_REASONS`)."""
    unread_bytes: int = 0
    """Bytes of shards in state unread."""
    oldest_unread_at: float | None = None
    """Discovery time of the oldest unread shard, unix seconds."""
    last_discovered_at: float | None = None
    """Discovery time of the newest shard, unix seconds."""
    newest_trained_at: float | None = None
    """Discovery time of the newest shard with a trained sample, unix seconds."""
    bad_ratio: float = 0.0
    """Share of unusable samples over the window of the failure budget."""
    budget_samples: int = 0
    """Samples in that window; under `budget.min_samples` the share is not judged."""
    paused: str = ""
    """Why the source is paused, in words; empty while it is not."""
