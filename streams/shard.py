"""The nouns of the stream: a shard, a sample's identity, a lease. Frozen values, no behaviour."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

IndexRanges = tuple[tuple[int, int], ...]
"""Half-open ranges of sample indices, ascending and disjoint."""

DROP_REASONS = (
    "truncated",  # the shard ended inside this sample
    "corrupt",  # the image bytes do not decode
    "too_small",  # a side is shorter than the configured minimum
    "too_large",  # more bytes or pixels than the configured caps
    "unsupported",  # not an image format on the allow-list
    "no_image",  # the sample has no image member
    "skipped",  # a person has ruled it out
    "ambiguous",  # two members of one sample claim the same suffix, or its members are not adjacent
)
"""Closed set: these words are labels of metrics and columns of the books."""


def shard_id(url: str, fingerprint: str) -> str:
    """See `Shard.id`."""
    text = f"{url}\0{fingerprint}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar as it was seen at discovery.

    New bytes under an old name are a new shard: the identity hashes url and fingerprint.
    """

    url: str
    """Absolute path of the tar."""
    size_bytes: int
    fingerprint: str
    """Size and modification time in nanoseconds, `"{size}-{mtime_ns}"`."""
    discovered_at: float
    """Unix seconds."""
    source: str
    """Name of the source that offered it."""

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits naming these bytes under this name."""
        return shard_id(self.url, self.fingerprint)


@dataclass(frozen=True, slots=True, order=True)
class SampleId:
    """Position of a sample in a shard. Never its key alone: keys repeat across shards."""

    shard_id: str
    index: int
    """Position among the samples of the tar, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one worker to deliver the samples of one shard until `expires_at`."""

    shard: Shard
    worker: str
    token: int
    """Grows with every lease of the ledger; fences workers that wake up late."""
    pass_number: int
    """0 for first-time training; a replay of the shard is the next pass."""
    expires_at: float
    """Seconds on the ledger's monotonic clock; comparable on the ledger only."""
    skip: IndexRanges = ()
    """Indices already claimed in this pass, or known to be unusable."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image of a batch came from, and under which lease it was read."""

    sample: SampleId
    pass_number: int
    token: int


def to_ranges(indices: Iterable[int]) -> IndexRanges:
    """Ascending half-open ranges covering exactly `indices`."""
    ranges: list[list[int]] = []
    for index in sorted(set(indices)):
        if ranges and ranges[-1][1] == index:
            ranges[-1][1] = index + 1
        else:
            ranges.append([index, index + 1])
    return tuple((start, stop) for start, stop in ranges)


def from_ranges(ranges: IndexRanges) -> set[int]:
    """The indices covered by `ranges`."""
    return {index for start, stop in ranges for index in range(start, stop)}
