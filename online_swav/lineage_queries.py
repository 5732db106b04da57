"""Which step trained which image: questions to the lineage of the newest checkpoint.

The answer comes from the deltas that every checkpoint left behind, and from the book for what was
trained since. Nothing is changed; a live run may be asked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from online_swav.books import read_only_book
from online_swav.checkpoint import Checkpoints
from online_swav.errors import ConfigError
from online_swav.lineage import Lineage, newest_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownShard:
    """A shard as the book has it."""

    number: int
    id: str
    url: str
    fingerprint: str
    source: str
    state: str
    fault: str | None
    retired: bool
    """Unreadable or ruled out: it is offered no more."""
    ruled_out: bool
    """By a person's decision."""
    num_samples: int | None
    trained: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Training:
    """One image in one step of the surviving weights."""

    step: int
    rank: int
    shard: int
    """Number of the shard in the book."""
    index: int
    pass_number: int
    committed: bool
    """Whether a checkpoint holds it; if not, a crash now would undo it."""


_COLUMNS = ("number, id, url, fingerprint, source, state, fault, retired, ruled_out, "
            "num_samples, trained, rejected")  # fmt: skip


def _shards(db: sqlite3.Connection, condition: str, *values: object) -> list[KnownShard]:
    names = _COLUMNS.split(", ")
    rows = db.execute(f"SELECT {_COLUMNS} FROM shards WHERE {condition} ORDER BY number", values)
    return [
        KnownShard(
            **{
                **dict(zip(names, row, strict=True)),
                "retired": bool(row[7]),
                "ruled_out": bool(row[8]),
            }
        )
        for row in rows
    ]


def find_shards(run: Path, text: str) -> list[KnownShard]:
    """Shards by url, by id, or by the last part of the url; all versions of the bytes under it.

    Raises:
        ConfigError: If the book knows none, or the last part alone means several places.
    """
    with read_only_book(run) as db:
        found = _shards(db, "id = ?", text) or _shards(
            db, "url = ?", text if "/" not in text else str(Path(text).absolute())
        )
        if not found and "/" not in text:
            escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            found = _shards(db, "url LIKE ? ESCAPE '\\'", f"%/{escaped}")
    urls = sorted({shard.url for shard in found})
    if not found:
        raise ConfigError(f"--shard {text}: the book of {run} knows no such shard")
    if len(urls) > 1:
        raise ConfigError(f"--shard {text} means {len(urls)} shards, give one of: "
                          + ", ".join(urls[:5]))  # fmt: skip
    return found


def shards_with_fault(run: Path) -> list[KnownShard]:
    """Shards that are quarantined, damaged or ruled out."""
    with read_only_book(run) as db:
        return _shards(db, "fault IS NOT NULL OR ruled_out = 1")


def shards_by_number(run: Path, numbers: set[int]) -> dict[int, KnownShard]:
    """Shards of the book, by number."""
    known = {}
    with read_only_book(run) as db:
        for number in numbers:
            known.update({shard.number: shard for shard in _shards(db, "number = ?", number)})
    return known


def skipped_totals(run: Path) -> tuple[int, int]:
    """How many shards, and single samples, a person has ruled out."""
    with read_only_book(run) as db:
        shards = db.execute(
            "SELECT count(*) FROM shards WHERE (fault IS NOT NULL OR ruled_out = 1) "
            "AND ruled_out = 1"
        ).fetchone()[0]
        samples = db.execute("SELECT count(*) FROM skips").fetchone()[0]
    return int(shards), int(samples)


def trainings(run: Path, *, first: int = 0, last: int | None = None) -> Iterator[Training]:
    """Every image of the steps `first` to `last` (both included), newest checkpoint first.

    Raises:
        CheckpointError: If a delta of the lineage is missing or damaged.
    """

    def wanted(step: int) -> bool:
        return step >= first and (last is None or step <= last)

    newest = newest_checkpoint(run)
    newest_step = newest.manifest.step if newest is not None else -1
    with read_only_book(run) as db:
        for number, pass_number, index, step, rank in db.execute(
            "SELECT shard, pass, idx, step, rank FROM claims WHERE step > ?", (newest_step,)
        ):
            if wanted(step):
                yield Training(step=step, rank=rank, shard=number, index=index,
                               pass_number=pass_number, committed=False)  # fmt: skip
    if newest is None:
        return
    for delta in Lineage(run).walk(newest):
        for step, rank, number, pass_number, indexes in delta.claims:
            if wanted(step):
                for index in indexes:
                    yield Training(step=step, rank=rank, shard=number, index=index,
                                   pass_number=pass_number, committed=True)  # fmt: skip
        if delta.parent_step < first:
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointExposure:
    """Whether the weights of a checkpoint have ever seen certain shards."""

    path: Path
    step: int
    images: int
    """Trainings of these shards' images up to its step, replays included."""


def exposures(run: Path, numbers: set[int]) -> list[CheckpointExposure]:
    """For each checkpoint on disk, how often it trained on the shards, oldest first.

    Raises:
        CheckpointError: If a delta of its lineage is missing or damaged.
    """
    found = []
    lineage = Lineage(run)
    seen: dict[int, int] = {}  # by step of the delta, of the newest checkpoint's line
    for checkpoint in reversed(Checkpoints(run, keep=1).whole()):
        if checkpoint.manifest.step not in seen:
            seen = {
                delta.step: sum(
                    len(indexes) for _, _, number, _, indexes in delta.claims if number in numbers
                )
                for delta in lineage.walk(checkpoint)
            }
        step = checkpoint.manifest.step
        images = sum(count for at, count in seen.items() if at <= step)
        found.append(CheckpointExposure(path=checkpoint.path, step=step, images=images))
    return found[::-1]
