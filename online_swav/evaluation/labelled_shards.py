"""Labelled images in shards: a member KEY.cls or KEY.json beside each image."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from online_swav.errors import ConfigError
from online_swav.evaluation.places import Found, Place
from streams.config import LimitsConfig
from streams.errors import StreamError
from streams.reader import RawSample, ShardReader
from streams.shard import Shard
from streams.sources import DirectorySource, describe_missing

logger = logging.getLogger(__name__)

_MAX_CLASSES = 1_000_000
"""A larger label is no class but a number of something else; a table of it would fill a memory."""
_Labelled = tuple[Place, tuple[int, ...]]


class _Seen:
    """What shards held, the labelled images among it."""

    def __init__(self) -> None:
        self.one = 0
        self.several = 0
        self.unlabelled = 0
        self.rejected: Counter[str] = Counter()
        """By reason."""
        self.damaged: list[str] = []
        """Shards that broke off, with what is wrong."""

    def tell(self, places: str) -> None:
        """One warning about all that is passed over."""
        said = []
        if self.unlabelled:
            said.append(f"{self.unlabelled} images without a label")
        if self.rejected:
            kinds = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
            said.append(f"{self.rejected.total()} samples that cannot be used ({kinds})")
        if self.damaged:
            said.append(f"{len(self.damaged)} shards are damaged, the first: {self.damaged[0]}")
        if said:
            logger.warning("passed over in %s: %s", places, "; ".join(said))


def in_shards(patterns: Sequence[str], *, limit: int | None, limits: LimitsConfig) -> Found:
    """The labelled images of shards.

    Raises:
        ConfigError: If there are none, their labels are no class numbers, or are of two kinds.
    """
    shards = list({shard.url: shard for p in patterns for shard in _shards(p)}.values())
    places = ", ".join(patterns)
    found: list[_Labelled] = []
    seen = _Seen()
    for number, shard in enumerate(shards):
        # What is left is shared evenly by the shards that are left.
        quota = None if limit is None else -(-(limit - len(found)) // (len(shards) - number))
        found.extend(islice(_labelled(shard, limits, seen), quota))
    if seen.several and seen.one:
        raise ConfigError(
            f"{places}: {seen.one} images have one label (KEY.cls) and "
            f"{seen.several} have several (KEY.json); evaluate them apart"
        )
    if not found:
        raise ConfigError(
            f"no labelled image in {places} ({len(shards)} shards, {seen.unlabelled} "
            "images without a label); a label is a member KEY.cls beside KEY.jpg, which holds a "
            'number, or KEY.json with {"labels": [numbers]}'
        )
    largest = max((label for _, labels in found for label in labels), default=-1)
    if largest < 0:
        raise ConfigError(f"{places}: every list of labels is empty")
    if largest >= _MAX_CLASSES:
        raise ConfigError(f"{places}: label {largest} is too large; labels are numbered from 0")
    seen.tell(places)
    return Found(
        places=tuple(place for place, _ in found), labels=tuple(labels for _, labels in found),
        multi_label=seen.several > 0, class_names=(),
    )  # fmt: skip


def _labelled(shard: Shard, limits: LimitsConfig, seen: _Seen) -> Iterator[_Labelled]:
    """Labelled images of one shard; counts whatever else is in it."""
    reader = ShardReader(shard, limits=limits, several_labels=True)
    try:
        for sample in reader:
            if not isinstance(sample, RawSample):
                seen.rejected[sample.reason] += 1
                continue
            labels = sample.labels if sample.label is None else (sample.label,)
            if labels is None:
                seen.unlabelled += 1
                continue
            if sample.label is None:
                seen.several += 1
            else:
                seen.one += 1
            place = Place(
                shard.url, shard.fingerprint, sample.image_at, len(sample.image), sample.key
            )  # fmt: skip
            yield place, labels
    except StreamError as error:
        raise ConfigError(str(error)) from error
    if reader.fault is not None:
        seen.damaged.append(f"{shard.url}: {reader.fault}")


def _shards(pattern: str) -> list[Shard]:
    missing = describe_missing(pattern)
    if missing:
        raise ConfigError(missing)
    source = DirectorySource("labelled", pattern, settle_s=0.0)
    source.poll()  # an unfinished look needs a second one
    shards = source.poll()
    if not shards:
        raise ConfigError(f"{pattern} matches no shard (looked for .tar files)")
    return sorted(shards, key=lambda shard: shard.url)
