"""What the book learned between two checkpoints. Every checkpoint carries its own delta."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

ClaimsOfBatch = tuple[int, int, int, int, tuple[int, ...]]
"""Step, rank, shard number, pass, indexes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What the book learned between two checkpoints; enough deltas in a row rebuild it."""

    step: int
    """The checkpoint's step; claims up to it are inside."""
    parent_step: int
    """Step of the checkpoint before; claims up to it are not inside. -1 for the first."""
    version: int
    """The book's version at this point; the next delta starts here."""
    shards: tuple[tuple[Any, ...], ...]
    """Rows of changed shards, in the order of the book's columns."""
    claims: tuple[ClaimsOfBatch, ...]
    """Rows (step, rank, shard number, pass, indexes): what one batch has of one shard."""
    ahead: tuple[ClaimsOfBatch, ...] = ()
    """The same of steps above `step`: a batch is claimed while the one before is trained, and the
    rows of `shards` count it already."""
    rejects: tuple[tuple[int, int, int, str], ...]
    """Rows (shard number, index, pass, reason)."""
    skips: tuple[tuple[int, int], ...]
    """Rows (shard number, index): samples that a person has ruled out."""

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__},
                          separators=(",", ":"))  # fmt: skip

    @staticmethod
    def from_json(text: str) -> Delta:
        """Inverse of `to_json`."""
        raw = json.loads(text)
        for name in ("shards", "rejects", "skips"):
            raw[name] = tuple(map(tuple, raw[name]))
        for name in ("claims", "ahead"):
            raw[name] = tuple((*batch, tuple(indexes)) for *batch, indexes in raw.get(name, ()))
        return Delta(**raw)
