"""Rejected samples as a person sees them: what waits for a decision, a second try, the bin.

A second try of samples is a shard of its own: their copies are packed into a new tar, which is
offered like any other. The old fate stays in the book, since it was true of the old bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.errors import QuarantineError
from streams.pack import write_shard
from streams.quarantine import Quarantine
from streams.shard import Shard
from streams.storage import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedSample:
    """One line of `samples.jsonl` that nobody has decided on yet."""

    url: str
    shard: str
    """Id of its shard."""
    source: str
    index: int
    key: str
    reason: str
    detail: str
    copy: str | None
    """Name of the file with its image bytes, in the quarantine folder."""
    at: float
    """Unix seconds."""


class QuarantineReview:
    """The samples in a quarantine folder.

    Args:
        folder: That of `Quarantine`; it may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def waiting(self) -> list[QuarantinedSample]:
        """Samples without a decision, each once, oldest first."""
        decided = {(line["shard"], line["index"]) for line in self._lines("decided.jsonl")}
        found: dict[tuple[str, int], QuarantinedSample] = {}
        for line in self._lines("samples.jsonl"):
            place = (line["shard"], line["index"])
            if place not in decided:
                found.setdefault(place, QuarantinedSample(**line))
        return list(found.values())

    def pack(
        self, samples: Iterable[QuarantinedSample]
    ) -> tuple[list[Shard], list[QuarantinedSample]]:
        """Pack the copies of samples into one new shard per source; also which had a copy.

        Raises:
            QuarantineError: If the disk refuses.
        """
        by_source: dict[str, list[QuarantinedSample]] = {}
        packable = [s for s in samples if s.copy is not None and (self._folder / s.copy).is_file()]
        for sample in packable:
            by_source.setdefault(sample.source, []).append(sample)
        shards = []
        folder = self._folder / "retried"
        for source, group in by_source.items():
            path = folder / f"{source}-{time.time_ns()}.tar"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_shard(path, self._members(group))
            except OSError as error:
                raise QuarantineError(f"cannot write {path}: {error.strerror or error}") from error
            status = path.stat()
            shards.append(
                Shard(url=str(path.absolute()), size_bytes=status.st_size, source=source,
                      fingerprint=fingerprint(status), discovered_at=time.time())
            )  # fmt: skip
        return shards, packable

    def _members(self, samples: list[QuarantinedSample]) -> Iterator[tuple[str, dict[str, bytes]]]:
        for sample in samples:
            copy = self._folder / str(sample.copy)
            yield f"{sample.shard}-{sample.index:06d}", {copy.suffix[1:]: copy.read_bytes()}

    def decide(self, samples: Iterable[QuarantinedSample], decision: str) -> int:
        """Take samples off the list for good, with their copies; how many.

        Args:
            samples: From `waiting`.
            decision: One word for the record.
        """
        number = 0
        record = Quarantine(self._folder)
        for sample in samples:
            record.note_decision(shard=sample.shard, index=sample.index, decision=decision)
            if sample.copy is not None:
                (self._folder / sample.copy).unlink(missing_ok=True)
            number += 1
        return number

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        path = self._folder / name
        if path.exists():
            with path.open() as file:
                yield from map(json.loads, file)
