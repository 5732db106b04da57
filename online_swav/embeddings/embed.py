"""From shards to a Parquet file of embeddings, shard by shard; what is finished is not repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from online_swav.embeddings.decoded import ahead, decoded
from online_swav.embeddings.kept_encoder import digest, encoder_folder, keep_encoder
from online_swav.embeddings.parts import (
    SHOWN,
    Joined,
    Missing,
    Part,
    Parts,
    begin,
    begun,
    parts_folder,
)
from online_swav.embeddings.table import rows, schema_of
from online_swav.encoder import Encoder
from online_swav.errors import ConfigError, OnlineSwavError
from online_swav.run_lock import locked_run
from streams.config import LimitsConfig
from streams.errors import ShardError
from streams.reader import ShardReader
from streams.shard import Shard
from streams.sources import DirectorySource, describe_missing


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig:
    """How rows are made."""

    dtype: Literal["float16", "float32"] = "float16"
    """Of an embedding's elements."""
    normalise: bool = False
    """Whether embeddings are brought to unit norm."""
    batch: int = 64
    """Pictures that are encoded together."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What was done."""

    encoder: str
    """Its name."""
    shards: int
    """All that were found."""
    finished_before: int
    """Shards that an earlier, unfinished start has done."""
    joined: Joined


def embed(
    place: Path, sources: Sequence[str], out: Path, config: EmbedConfig, *,
    device: torch.device, say: Callable[[str], None], told: Callable[[int, int, int], None],
) -> Embedded:  # fmt: skip
    """Write the embeddings of every picture in shards.

    Args:
        place: Of the encoder: a run, or whatever else `Encoder.load` takes.
        sources: Folders, globs or tars.
        out: The Parquet file.
        config: How rows are made.
        device: Where the encoder runs.
        say: Told in words what is going on.
        told: Told shards that are behind us, all there are, and pictures of this start.

    Raises:
        ConfigError: If something is missing or unusable, or the disk refuses; the message says what
            to do.
        OnlineSwavError: If some shards cannot be read now; those that could need not be repeated.
    """
    if out.exists():
        raise ConfigError(
            f"--out {out} is there already; move it and {encoder_folder(out).name} away together, "
            "or name another file"
            + (f" ({parts_folder(out).name} is a leftover)" if parts_folder(out).exists() else "")
        )
    shards = shards_at(sources)
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: the folder {out.absolute().parent} does not exist")
    made = _begun(place, out, config)
    if made is None and encoder_folder(out).exists() and not parts_folder(out).exists():
        raise ConfigError(
            f"{encoder_folder(out)} is there already, perhaps of an {out.name} that was moved away "
            "and needs it; move it too, or name another file"
        )
    encoder = Encoder.load(place if made is None else encoder_folder(out), device=device)
    if made is not None and digest(encoder) != made["digest"]:
        raise ConfigError(
            f"{encoder_folder(out)} is not the encoder that the finished parts are of; delete it "
            f"and {parts_folder(out)} to begin anew"
        )
    origin = f"from {encoder.place}" if made is None else "with which this file was begun"
    say(f"encoder: {encoder.name}, {origin}")
    try:
        parts_folder(out).mkdir(exist_ok=True)
        with ExitStack() as stack:
            _lock(stack, out)
            if made is None:
                made = _about(place, encoder, config)
                keep_encoder(encoder, encoder_folder(out))
                begin(out, made)
            parts = Parts(out, schema_of(encoder.feature_dim, config.dtype, made))
            return _embed_all(shards, parts, encoder, config, say=say, told=told)
    except OSError as error:
        raise ConfigError(
            f"cannot write {out}: {error.strerror or error}; put that right and start the same "
            "command again: finished shards are not repeated"
        ) from error


def shards_at(sources: Sequence[str]) -> list[Shard]:
    """Every tar at some places, by path.

    Raises:
        ConfigError: If a place has none.
    """
    found: dict[str, Shard] = {}
    for pattern in sources:
        missing = describe_missing(pattern)
        shards = [] if missing else DirectorySource("embed", pattern, settle_s=0.0).poll()
        if not shards:
            raise ConfigError(
                f"--source {missing or f'{pattern} matches no shard (looked for .tar files)'}"
            )
        found |= {shard.url: shard for shard in shards}
    return [found[url] for url in sorted(found)]


def _lock(stack: ExitStack, out: Path) -> None:
    try:
        stack.enter_context(locked_run(parts_folder(out)))
    except ConfigError as error:
        raise ConfigError(
            f"another process is writing {out}; stop it first, or give another --out"
        ) from error


def _wanted(place: Path, config: EmbedConfig) -> dict[str, Any]:
    return {
        "asked_for": str(place.resolve()), "dtype": config.dtype, "normalised": config.normalise,
    }  # fmt: skip


def _begun(place: Path, out: Path, config: EmbedConfig) -> dict[str, Any] | None:
    """What unfinished parts say of themselves; None if there are none.

    Raises:
        ConfigError: If they are made otherwise.
    """
    made = begun(out)
    if made is None:
        return None
    for name, value in _wanted(place, config).items():
        if made.get(name) != value:
            raise ConfigError(
                f"{parts_folder(out)} holds unfinished work with {name} {made.get(name)}, and now "
                f"it is {value}; give the same options to go on, or delete that folder and "
                f"{encoder_folder(out)} to begin anew"
            )
    return made


def _about(place: Path, encoder: Encoder, config: EmbedConfig) -> dict[str, Any]:
    """What a file says of itself."""
    return _wanted(place, config) | {
        "format": 1, "encoder": encoder.name, "digest": digest(encoder), "card": encoder.card,
    }  # fmt: skip


def _embed_all(
    shards: Sequence[Shard], parts: Parts, encoder: Encoder, config: EmbedConfig, *,
    say: Callable[[str], None], told: Callable[[int, int, int], None],
) -> Embedded:  # fmt: skip
    before = sum(parts.has(shard) for shard in shards)
    if before:
        say(f"{before} of {len(shards)} shards are finished already")
    failed: list[str] = []
    pictures = 0
    for number, shard in enumerate(shards, start=1):
        if not parts.has(shard):
            try:
                with parts.write(shard) as part:
                    for count in _embed_shard(shard, part, encoder, parts, config):
                        pictures += count
                        told(number - 1, len(shards), pictures)
            except ShardError as error:
                failed.append(str(error))
        told(number, len(shards), pictures)
    if failed:
        raise OnlineSwavError(
            f"{len(failed)} of {len(shards)} shards cannot be read now; the others are finished, "
            "and the same command tries these again, as they are then (or leave them out of "
            "--source):\n  " + "\n  ".join(failed[:SHOWN])
            + (f"\n  and {len(failed) - SHOWN} more" if len(failed) > SHOWN else "")
        )  # fmt: skip
    say("joining the parts")
    joined = parts.join(shards)
    return Embedded(encoder=encoder.name, shards=len(shards), finished_before=before, joined=joined)


def _embed_shard(
    shard: Shard, part: Part, encoder: Encoder, parts: Parts, config: EmbedConfig
) -> Iterator[int]:
    """Rows of a shard into its part; yields how many pictures more there are.

    Raises:
        ShardError: If it cannot be opened, or has changed; another try may find it otherwise.
    """
    reader = ShardReader(shard, limits=LimitsConfig())
    try:
        yield from _embed_batches(reader, shard, part, encoder, parts, config)
    except ShardError as error:
        if error.reason != "not_a_tar":
            raise
        fault: str | None = str(error)
    else:
        fault = reader.fault and f"the shard {reader.fault}; samples before are whole"
    if fault is not None:
        part.missing.append(
            Missing(shard=shard.url, index=None, key="", reason="damaged", detail=fault)
        )


def _embed_batches(
    reader: ShardReader, shard: Shard, part: Part, encoder: Encoder, parts: Parts,
    config: EmbedConfig,
) -> Iterator[int]:  # fmt: skip
    for batch in ahead(decoded(reader, shard, part.missing, config.batch)):
        features, scores = encoder.features_and_scores(batch.images)
        best = None if scores is None else scores.max(dim=1)
        part.rows.add(
            rows(
                parts.schema,
                keys=[sample.key for sample in batch.samples],
                shard=shard.url,
                indices=[sample.index for sample in batch.samples],
                embeddings=_elements(features, encoder, config),
                prototypes=None if best is None else best.indices.int().numpy(),
                scores=None if best is None else best.values.numpy(),
            )
        )
        yield len(batch.samples)


def _elements(
    features: Tensor, encoder: Encoder, config: EmbedConfig
) -> npt.NDArray[np.floating[Any]]:
    if config.normalise:
        features = F.normalize(features, dim=1)
    if config.dtype == "float16":
        features = features.half()
    if not features.isfinite().all():
        raise ConfigError(
            f"{encoder.name} gives features that are not finite as {config.dtype}; "
            + ("try --dtype float32 or --normalise" if config.dtype == "float16"
               else "take an earlier checkpoint")
        )  # fmt: skip
    elements: npt.NDArray[np.floating[Any]] = features.numpy()
    return elements
