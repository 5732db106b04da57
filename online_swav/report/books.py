"""The books of the run: where every image went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from online_swav.books import totals, verify
from online_swav.errors import ConfigError
from streams.counts import SourceCounts
from streams.errors import LedgerError

BROKEN_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBook:
    """The fate of a source's images and shards."""

    name: str
    known: int
    trained: int
    dropped: int
    open: int
    """Without a fate yet."""
    replayed: int
    uncommitted: int
    reasons: str
    shards: str
    paused: str
    bar: tuple[tuple[str, float], ...]
    """Style sheet class and percent of the known samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All sources, and whether the invariants hold."""

    sources: tuple[SourceBook, ...] = ()
    broken: tuple[str, ...] = ()
    """What is broken; empty when every invariant holds."""
    missing: str = ""
    """Why there is nothing, in a sentence."""


def read_books(run: Path) -> Books:
    """The books as they are now."""
    try:
        counts = totals(run)
    except (ConfigError, LedgerError) as error:
        return Books(missing=f"The books cannot be read: {error}")
    if not counts:
        return Books(missing="The book is empty: no shard was found yet. The first one that is "
                     "read begins it.")  # fmt: skip
    sources = tuple(_source(name, c) for name, c in counts.items())
    return Books(sources=sources, broken=tuple(verify(run)[:BROKEN_SHOWN]))


def _source(name: str, counts: SourceCounts) -> SourceBook:
    dropped = sum(counts.dropped.values())
    rest = max(counts.samples_known - counts.trained - dropped, 0)
    whole = max(counts.trained + dropped + rest, 1)
    parts = (("trained", counts.trained), ("dropped", dropped), ("rest", rest))
    return SourceBook(
        name=name, known=counts.samples_known, trained=counts.trained, dropped=dropped, open=rest,
        replayed=counts.replayed, uncommitted=counts.uncommitted,
        reasons=", ".join(f"{n:,} {reason}" for reason, n in counts.dropped.items() if n),
        shards=", ".join(f"{n:,} {state}" for state, n in counts.shards.items() if n),
        paused=counts.paused,
        bar=tuple((part, round(100 * n / whole, 2)) for part, n in parts if n),
    )  # fmt: skip
