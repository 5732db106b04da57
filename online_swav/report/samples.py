"""The sample of images that the pictures are made of, read as the stream reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.report.thumbnails import THUMBNAIL_PX, jpeg
from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import SampleError, StreamError
from streams.reader import RawSample, ShardReader
from streams.shard import SampleId, Shard
from streams.sources import DirectorySource, describe_missing, parse_sources

MOST_SHARDS = 16
"""Shards the sample is taken from, evenly over all there are."""
WHOLE = 4
"""Images whose bytes are kept, to cut crops from."""
_SPARE = 1.4
"""A JPEG is decoded smaller as long as it keeps this times the pixels it is shown with."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleImage:
    """One image of the sample."""

    id: SampleId
    key: str
    label: int | None
    square: npt.NDArray[np.uint8]
    """uint8 `[S, S, 3]`: the central square, as the encoder gets it."""
    thumbnail: bytes
    """JPEG."""
    encoded: bytes | None
    """The bytes in the shard; None but for `WHOLE` images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Images, where they are from, and why there are none, in words."""

    images: tuple[SampleImage, ...] = ()
    origin: str = ""
    shards: int = 0
    missing: str = ""


def take_sample(config: RunConfig, patterns: Sequence[str], *, limit: int) -> Sample:
    """A sample of shards: those of `patterns`, else of the probe, else of the sources.

    Raises:
        ConfigError: If `patterns` are given and match no shard, or hold no image.
    """
    if patterns:
        shards = [shard for pattern in patterns for shard in _asked_for(pattern)]
        sample = _read(config, shards, origin=f"--shards {' '.join(patterns)}", limit=limit)
        if sample.missing:
            raise ConfigError(f"--shards {' '.join(patterns)}: {sample.missing}")
        return sample
    places = [("the labelled shards of the probe", config.probe_test)]
    places.append(("the run's sources", tuple(parse_sources(config.source).values())))
    for origin, usual in places:
        shards = [shard for pattern in usual for shard in _shards(pattern)]
        sample = _read(config, shards, origin=origin, limit=limit)
        if not sample.missing:
            return sample
    return Sample(missing="There is no image to show: the run's shards are no longer where they "
                  "were. --shards GLOB takes images from others.")  # fmt: skip


def _asked_for(pattern: str) -> list[Shard]:
    missing = describe_missing(pattern)
    found = [] if missing else _shards(pattern)
    if not found:
        raise ConfigError(
            f"--shards {pattern}: {missing or 'no shard matches it (looked for .tar files)'}"
        )
    return found


def _shards(pattern: str) -> list[Shard]:
    if describe_missing(pattern):
        return []
    source = DirectorySource("sample", pattern, settle_s=0.0)
    try:
        source.poll()  # an unfinished look needs a second one
        return sorted(source.poll(), key=lambda shard: shard.url)
    except StreamError:
        return []


def _read(config: RunConfig, shards: Sequence[Shard], *, origin: str, limit: int) -> Sample:
    """The first images of shards; what cannot be read or decoded is passed over."""
    chosen = list({shard.url: shard for shard in shards}.values())
    if len(chosen) > MOST_SHARDS:
        chosen = [chosen[i * len(chosen) // MOST_SHARDS] for i in range(MOST_SHARDS)]
    images: list[SampleImage] = []
    used = 0
    every = max(1, limit // WHOLE)
    for number, shard in enumerate(chosen):
        quota = -(-(limit - len(images)) // (len(chosen) - number))
        before = len(images)
        try:
            for raw in ShardReader(shard, limits=config.ingest.limits):
                if len(images) - before >= quota:
                    break
                if isinstance(raw, RawSample):
                    keep = len(images) % every == 0
                    image = _image(shard, raw, config, keep=keep)
                    images += [image] if image is not None else []
        except StreamError:
            pass  # what was read of it before the damage is whole
        used += len(images) > before
    missing = "" if images else f"none of {len(chosen)} shards holds an image that decodes"
    return Sample(images=tuple(images), origin=origin, shards=used, missing=missing)


def _image(shard: Shard, raw: RawSample, config: RunConfig, *, keep: bool) -> SampleImage | None:
    side = config.crops[0].size
    pixels = decode_small(raw.image, config.ingest.limits, side=max(side, THUMBNAIL_PX))
    if pixels is None:
        return None
    picture = Image.fromarray(pixels)
    square = ImageOps.fit(picture, (side, side), Image.Resampling.BILINEAR)
    return SampleImage(
        id=SampleId(shard.id, raw.index), key=raw.key, label=raw.label,
        square=np.asarray(square), thumbnail=jpeg(picture, THUMBNAIL_PX),
        encoded=raw.image if keep else None,
    )  # fmt: skip


def decode_small(data: bytes, limits: LimitsConfig, *, side: int) -> npt.NDArray[np.uint8] | None:
    """A picture with at least `side` pixels a side where it has them; None if it cannot be used."""
    try:
        return decode_image(data, limits, reduce=partial(_reduction, side=side))
    except (SampleError, MemoryError):
        return None


def _reduction(height: int, width: int, *, side: int) -> int:
    return next((by for by in (8, 4, 2) if min(height, width) >= by * side * _SPARE), 1)
