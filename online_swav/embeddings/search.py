"""A picture in, the nearest pictures of a file of embeddings out, with their thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from online_swav.embeddings.kept_encoder import digest, encoder_folder
from online_swav.embeddings.nearest import Hit, nearest
from online_swav.embeddings.table import about, open_table
from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.report.samples import decode_small
from online_swav.report.thumbnails import jpeg_whole
from streams.config import LimitsConfig
from streams.errors import DecodeError, ShardError
from streams.reader import RawSample, ShardReader
from streams.shard import Shard
from streams.storage import fingerprint

SIDE = 224
"""Longer side of a thumbnail, in pixels: twice what the page shows, for fine screens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The picture that is looked for."""

    name: str
    thumbnail: bytes
    """JPEG."""
    prototype: int | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found."""

    query: Query
    hits: Sequence[Hit]
    thumbnails: Sequence[bytes | str]
    """Of each hit: a JPEG, or in words why there is none; empty where none were asked for."""
    rows: int
    """In the whole file."""
    about: dict[str, Any]
    """What the file says of itself."""

    def without_picture(self) -> list[tuple[str, str]]:
        """Shards from which no thumbnail came, and why."""
        pairs = zip(self.hits, self.thumbnails, strict=False)
        return sorted({(hit.shard, why) for hit, why in pairs if isinstance(why, str)})


def search(
    index: Path, image: Path, *, place: Path | None, k: int, device: torch.device,
    thumbnails: bool, advance: Callable[[int], None],
) -> Found:  # fmt: skip
    """The k nearest pictures.

    Args:
        index: The file of embeddings.
        image: The picture.
        place: Of the encoder; None for the one that is kept beside the file.
        k: How many.
        device: Where the encoder runs.
        thumbnails: Whether the pictures themselves are wanted: their shards are read for it.
        advance: Told how many more rows are behind us.

    Raises:
        ConfigError: If something is missing or unusable, or the encoder is another one than that
            of the rows.
    """
    with open_table(index) as file:
        made = about(file)
        encoder = _encoder(index, place, made, device)
        try:
            features, scores = encoder.features_and_scores([image])
            thumbnail = _thumbnail(image.read_bytes())
        except OSError as error:
            raise ConfigError(f"--image {image}: {error.strerror}") from error
        except DecodeError as error:
            raise ConfigError(f"--image {error}") from error
        query = Query(
            name=image.name,
            thumbnail=thumbnail if isinstance(thumbnail, bytes) else b"",
            prototype=None if scores is None else int(scores[0].argmax()),
            score=None if scores is None else float(scores[0].max()),
        )
        rows = file.metadata.num_rows
        try:
            hits = nearest(file, features[0].numpy(), k=k, advance=advance)
        except (OSError, pa.ArrowException) as error:
            why = str(error).splitlines()[0]
            raise ConfigError(f"{index} is damaged ({why}); embed anew") from error
    pictures = _thumbnails(hits) if thumbnails else []
    return Found(query=query, hits=hits, thumbnails=pictures, rows=rows, about=made)


def _encoder(
    index: Path, place: Path | None, made: dict[str, Any], device: torch.device
) -> Encoder:
    kept = encoder_folder(index)
    if place is None and not kept.exists():
        raise ConfigError(
            f"{kept} is gone, the encoder of {index} ({made['encoder']}); give it with --run PLACE"
        )
    encoder = Encoder.load(place or kept, device=device)
    if digest(encoder) != made["digest"]:
        raise ConfigError(
            f"{index} was made by {made['encoder']}, and {encoder.place} holds other weights "
            f"({encoder.name}): their embeddings cannot be compared. "
            + (f"Leave --run away to use {kept}" if place and kept.exists()
               else "Give --run the encoder it was made with")
            + ", or embed anew."
        )  # fmt: skip
    return encoder


def _thumbnails(hits: Sequence[Hit]) -> list[bytes | str]:
    """The picture of each hit, or in words why there is none."""
    found: dict[tuple[str, int], bytes | str] = {}
    for shard in {hit.shard for hit in hits}:
        wanted = {hit.index: hit.key for hit in hits if hit.shard == shard}
        found |= {(shard, index): told for index, told in _of_shard(shard, wanted).items()}
    return [found[hit.shard, hit.index] for hit in hits]


def _of_shard(path: str, wanted: dict[int, str]) -> dict[int, bytes | str]:
    try:
        status = Path(path).stat()
    except OSError:
        return dict.fromkeys(wanted, "its shard is gone")
    shard = Shard(url=path, size_bytes=status.st_size, fingerprint=fingerprint(status),
                  discovered_at=0.0, source="index")  # fmt: skip
    told: dict[int, bytes | str] = dict.fromkeys(wanted, "its shard has changed")
    try:
        for sample in ShardReader(shard, limits=LimitsConfig(), skip=_others(wanted)):
            same = isinstance(sample, RawSample) and sample.key == wanted.get(sample.index)
            if isinstance(sample, RawSample) and same:
                told[sample.index] = _thumbnail(sample.image)
            if sample.index >= max(wanted):
                break
    except ShardError:
        return told | dict.fromkeys(wanted, "its shard cannot be read")
    return told


def _others(wanted: dict[int, str]) -> tuple[tuple[int, int], ...]:
    """All indices before the last one that are not wanted."""
    inner = sorted(wanted)
    return tuple(
        (begin + 1, end) for begin, end in zip([-1, *inner], inner, strict=False) if end > begin + 1
    )


def _thumbnail(data: bytes) -> bytes | str:
    pixels = decode_small(data, LimitsConfig(), side=SIDE)
    return "it cannot be decoded" if pixels is None else jpeg_whole(pixels, SIDE)
