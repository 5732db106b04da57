"""Embeddings in the making: one part for each shard, and at the end one file.

    out.parquet.parts/           until the end
      made.json                  how rows are made; what is made otherwise cannot go on here
      SHARD.parquet              rows of a finished shard, named by its id
      SHARD.jsonl                its samples that have no row, if there are any
    out.parquet.missing.jsonl    at the end: every sample that has no row, and why

A part appears when it is whole, hence the same command again goes on where it ended.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_swav.embeddings.table import Rows, batches, open_table
from online_swav.errors import ConfigError
from streams.shard import Shard

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What has no row."""

    shard: str
    index: int | None
    """Position of the sample; None for the rest of a damaged shard."""
    key: str
    reason: str
    """One of `streams.shard.DROP_REASONS`, or `damaged` for the rest of a shard."""
    detail: str


@dataclass(slots=True)
class Joined:
    """What the parts held together."""

    rows: int
    missing: dict[str, int]
    """How many have no row, by reason."""
    examples: list[Missing]
    """The first of them."""


class Part:
    """The part of one shard, being written.

    Args:
        rows: Of the shard.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.missing: list[Missing] = []


class Parts:
    """See the module.

    Args:
        out: The file they are to become.
        schema: Of its rows.
    """

    def __init__(self, out: Path, schema: pa.Schema) -> None:
        self._out = out
        self.schema = schema
        self.folder = parts_folder(out)

    def has(self, shard: Shard) -> bool:
        """Whether the shard is finished."""
        return self._path(shard).exists()

    @contextmanager
    def write(self, shard: Shard) -> Iterator[Part]:
        """The part of a shard; it is there once this ends without an error."""
        path = self._path(shard)
        staging = path.with_name(f".{path.name}")
        with Rows(staging, self.schema) as rows:
            part = Part(rows)
            yield part
        if part.missing:
            with path.with_suffix(".jsonl").open("w") as file:
                file.writelines(json.dumps(asdict(item)) + "\n" for item in part.missing)
                _sync(file.fileno())
        _replace(staging, path)

    def join(self, shards: Sequence[Shard]) -> Joined:
        """Make the one file of the parts of these shards, in this order; parts go away after it."""
        finished = [shard for shard in shards if self.has(shard)]
        staging = self._out.with_name(f".{self._out.name}")
        with Rows(staging, self.schema) as rows:
            for shard in finished:
                with open_table(self._path(shard)) as part:
                    for batch in batches(part):
                        rows.add(batch)
        joined = self._join_missing(finished, Joined(rows.count, {}, []))
        if not rows.count:
            staging.unlink()
            raise ConfigError(
                f"none of {sum(joined.missing.values())} samples in {len(shards)} shards is a "
                f"picture; {missing_path(self._out)} says why"
            )
        _replace(staging, self._out)
        # On a network file system the lock that is held keeps its file.
        shutil.rmtree(self.folder, ignore_errors=True)
        return joined

    def _join_missing(self, finished: Sequence[Shard], joined: Joined) -> Joined:
        target = missing_path(self._out)
        staging = target.with_name(f".{target.name}")
        with staging.open("w") as file:
            for shard in finished:
                path = self._path(shard).with_suffix(".jsonl")
                if not path.exists():
                    continue
                with path.open() as lines:
                    for line in lines:
                        file.write(line)
                        item = Missing(**json.loads(line))
                        joined.missing[item.reason] = joined.missing.get(item.reason, 0) + 1
                        if len(joined.examples) < SHOWN:
                            joined.examples.append(item)
        if joined.missing:
            staging.replace(target)
        else:
            staging.unlink()
            target.unlink(missing_ok=True)
        return joined

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.id}.parquet"


def parts_folder(out: Path) -> Path:
    """Where the parts of a file are."""
    return out.with_name(f"{out.name}.parts")


def missing_path(out: Path) -> Path:
    """Where the samples without a row are named."""
    return out.with_name(f"{out.name}.missing.jsonl")


def begun(out: Path) -> dict[str, Any] | None:
    """How the rows of unfinished parts are made; None if there are none."""
    try:
        made: dict[str, Any] = json.loads((parts_folder(out) / "made.json").read_text())
    except (OSError, ValueError):
        return None
    return made


def begin(out: Path, made: dict[str, Any]) -> None:
    """Start anew: no part is left of before.

    Raises:
        OSError: If the disk refuses.
    """
    folder = parts_folder(out)
    for leftover in (*folder.glob("*.parquet"), *folder.glob("*.jsonl")):
        leftover.unlink()
    staging = folder / ".made.json"
    staging.write_text(json.dumps(made, indent=1) + "\n")
    _replace(staging, folder / "made.json")


def _replace(staging: Path, path: Path) -> None:
    with staging.open("rb") as file:
        _sync(file.fileno())
    staging.replace(path)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
