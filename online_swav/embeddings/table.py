"""The Parquet file of embeddings: its columns, and what it says of itself.

    key          the sample's key in its shard
    shard        path of the shard
    index        position of the sample in the shard, from 0
    embedding    fixed-size list of float16 or float32
    prototype    the nearest one; null where the encoder has none
    score        cosine to it

The metadata `online_swav` is a JSON object: the encoder's card, its digest, how rows were made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from online_swav.errors import ConfigError

METADATA = b"online_swav"
GROUP_ROWS = 8192
"""Rows that are written and read together: what the memory holds at once."""
COLUMNS = ("key", "shard", "index", "prototype", "score")
"""All but the embedding."""


def schema_of(dim: int, dtype: str, about: Mapping[str, Any]) -> pa.Schema:
    """The columns, with metadata."""
    element = pa.field("element", pa.float16() if dtype == "float16" else pa.float32(), False)
    return pa.schema(
        [
            pa.field("key", pa.string(), False),
            pa.field("shard", pa.string(), False),
            pa.field("index", pa.int32(), False),
            pa.field("embedding", pa.list_(element, dim), False),
            pa.field("prototype", pa.int32()),
            pa.field("score", pa.float32()),
        ],
        metadata={METADATA: json.dumps(dict(about))},
    )


def rows(
    schema: pa.Schema, *, keys: Sequence[str], shard: str, indices: Sequence[int],
    embeddings: npt.NDArray[np.floating[Any]], prototypes: npt.NDArray[np.int32] | None,
    scores: npt.NDArray[np.float32] | None,
) -> pa.RecordBatch:  # fmt: skip
    """Rows of one shard; `embeddings` of shape [N, dim] and of the schema's type."""
    column = schema.field("embedding").type
    nothing = [None] * len(keys)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(keys, pa.string()),
            pa.array([shard] * len(keys), pa.string()),
            pa.array(indices, pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), type=column),
            pa.array(nothing if prototypes is None else prototypes, pa.int32()),
            pa.array(nothing if scores is None else scores, pa.float32()),
        ],
        schema=schema,
    )


class Rows:
    """Writes rows into one Parquet file, in groups of `GROUP_ROWS`, whatever they come in.

    Args:
        path: The file.
        schema: Of `schema_of`.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        # Dictionaries of floats only cost time; a shard's path is the same in all of its rows.
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=["shard"],
            write_statistics=["shard", "index", "prototype"],
        )  # fmt: skip
        self._waiting: list[pa.RecordBatch] = []
        self.count = 0
        """Rows that were added."""

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        self.count += batch.num_rows
        if sum(part.num_rows for part in self._waiting) >= GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting.clear()
        self._writer.write_table(table, row_group_size=GROUP_ROWS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Write what waits, and the file's end."""
        try:
            if kind is None and self._waiting:
                self._write()
        finally:
            self._writer.close()


def open_table(path: Path) -> pq.ParquetFile:
    """A file of embeddings, for reading.

    Raises:
        ConfigError: If it is missing, damaged, or another kind of file.
    """
    try:
        # Buffered and not read ahead: else a row group is held whole, once for each column.
        file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        why = "it does not exist" if not path.exists() else str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{path} cannot be read: {why}; `online-swav embed --out FILE` writes one"
        ) from error
    missing = {*COLUMNS, "embedding"} - set(file.schema_arrow.names)
    if missing or METADATA not in (file.schema_arrow.metadata or {}):
        file.close()
        raise ConfigError(f"{path} was not written by `online-swav embed`")
    return file


def about(file: pq.ParquetFile) -> dict[str, Any]:
    """What a file says of itself."""
    told: dict[str, Any] = json.loads(file.schema_arrow.metadata[METADATA])
    return told


def batches(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows in order, at most `GROUP_ROWS` at once."""
    yield from file.iter_batches(batch_size=GROUP_ROWS, columns=columns)


def matrix(batch: pa.RecordBatch) -> npt.NDArray[np.floating[Any]]:
    """The embeddings of some rows, [N, dim]."""
    column = batch.column("embedding")
    values: npt.NDArray[np.floating[Any]] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), column.type.list_size)


def number_of_rows(path: Path) -> int:
    """Of a file of embeddings.

    Raises:
        ConfigError: As `open_table`.
    """
    with open_table(path) as file:
        count: int = file.metadata.num_rows
    return count
