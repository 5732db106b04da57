"""What an adversarial case is, and the words its outcome has in the documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streams.config import LimitsConfig

LIMITS = LimitsConfig(max_member_bytes=8 * 2**20, max_pixels=1_000_000)
"""Small caps, so that small fixtures reach them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One hostile or odd input and what has to become of it."""

    name: str
    what: str
    """The input, in one sentence."""
    write: Callable[[Path], object]
    """Writes the tars into a folder, which is the source (or holds the folders `sources`)."""
    accepted: int
    """Images trained, each once."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Samples that cannot be used, by reason."""
    done: int = 1
    """Shards read to their end or to their damage."""
    quarantined: int = 0
    """Shards that cannot be read at all."""
    faults: tuple[str, ...] = ()
    """A part of every line in `shards.jsonl`: damaged shards, then quarantined ones."""
    meddle: Callable[[Path], object] | None = None
    """What happens to the source after the first batch, or when there is nothing to read."""
    before_open: Callable[[Path], object] | None = None
    """What happens to it between the listing and the opening."""
    sources: tuple[str, ...] = (".",)
    clock_ahead_s: float = 60.0
    """How far the reader's clock is ahead of that of the files."""
    clock_jump_s: float = 0.0
    """How far it jumps after the first listing."""
    crash_after: int = 0
    """Images of the first shard that were trained before its reader died."""
    note: str = ""
    """What else a user should know; ends the line of the table."""

    @property
    def outcome(self) -> str:
        """What becomes of it, in words."""
        parts = []
        if self.accepted:
            parts.append(f"accepted: {_number(self.accepted, 'image')}")
        parts += [f"dropped: {count} `{reason}`" for reason, count in self.dropped.items()]
        damaged = len(self.faults) - self.quarantined
        parts += [f"fault: {fault}" for fault in self.faults[:damaged]]
        parts += [f"quarantined: {fault}" for fault in self.faults[damaged:]]
        if not self.done and not self.quarantined:
            parts.append("left out: not offered to the readers")
        if not parts:
            parts.append("accepted: it holds no image")
        return "; ".join([*parts, self.note] if self.note else parts)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def markdown_table(cases: list[Case]) -> str:
    """One line per case."""
    lines = ["| case | outcome |", "|---|---|"]
    lines += [f"| **{case.name}**: {case.what} | {case.outcome} |" for case in cases]
    return "\n".join(lines) + "\n"
