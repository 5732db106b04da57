"""The rows of a file of embeddings that are nearest to a vector, by cosine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from online_swav.embeddings.table import COLUMNS, batches, matrix
from online_swav.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A row that is near."""

    row: int
    """Its number in the file."""
    cosine: float
    key: str
    shard: str
    index: int
    prototype: int | None
    score: float | None


def nearest(
    file: pq.ParquetFile, query: npt.NDArray[np.floating[Any]], *, k: int,
    advance: Callable[[int], None] = lambda _rows: None,
) -> list[Hit]:  # fmt: skip
    """The k nearest rows, nearest first; of equal ones the earlier row first.

    Only a row group is held at once, whatever the length of the file.

    Args:
        file: Of embeddings.
        query: Of shape [dim].
        k: How many.
        advance: Told how many more rows are behind us.

    Raises:
        ConfigError: If rows and query have not the same length.
    """
    dim = file.schema_arrow.field("embedding").type.list_size
    if query.shape != (dim,):
        raise ConfigError(
            f"the file has embeddings of {dim} numbers, and this encoder gives {len(query)}"
        )
    wanted = _unit(query.astype(np.float32)[None])[0]
    cosines = np.empty(0, np.float32)
    rows = np.empty(0, np.int64)
    done = 0
    for batch in batches(file, ["embedding"]):
        near = _unit(matrix(batch).astype(np.float32)) @ wanted
        cosines = np.concatenate([cosines, near])
        rows = np.concatenate([rows, np.arange(done, done + len(near))])
        best = np.argsort(-cosines, kind="stable")[:k]
        cosines, rows = cosines[best], rows[best]
        done += len(near)
        advance(len(near))
    return _described(file, rows.tolist(), cosines.tolist())


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: npt.NDArray[np.float32] = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return units


def _described(file: pq.ParquetFile, rows: list[int], cosines: list[float]) -> list[Hit]:
    """The other columns of some rows: of their row groups alone."""
    begins = np.cumsum([0, *(file.metadata.row_group(i).num_rows
                             for i in range(file.num_row_groups))])  # fmt: skip
    found: dict[int, dict[str, Any]] = {}
    for group in sorted({int(np.searchsorted(begins, row, "right")) - 1 for row in rows}):
        here = [row for row in rows if begins[group] <= row < begins[group + 1]]
        table = file.read_row_group(group, columns=list(COLUMNS))
        places = [row - int(begins[group]) for row in here]
        found |= zip(here, table.take(places).to_pylist(), strict=True)
    return [
        Hit(row=row, cosine=cosine, **found[row]) for row, cosine in zip(rows, cosines, strict=True)
    ]
