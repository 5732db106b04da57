"""Reads a few images of a few shards, in a process of its own: tar, decode, crops.

A picture that kills its decoder must not kill the run's start, and storage that hangs must not hang
it; so this is a program (`python -m`): an order on stdin, one line on stdout for each shard that is
opened, the readings at the end. Imports what an ingest actor imports, and neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.config import CropFamily, LimitsConfig
from streams.decode import decode_image
from streams.errors import SampleError, ShardError
from streams.ingest import empty_crops
from streams.multicrop import largest_reduction, multicrop, sample_generator
from streams.reader import RawSample, ShardReader
from streams.shard import SampleId, Shard
from streams.storage import fingerprint
from streams.tar import BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to read; whichever bound comes first."""

    shards: dict[str, list[str]]
    """Tars by source, the most telling first."""
    families: tuple[CropFamily, ...]
    """Crops."""
    limits: LimitsConfig
    """Caps on members and pictures."""
    settle_s: float
    """A tar that changed within so many seconds may still be copied."""
    seconds: float
    """For all sources together."""
    images: int
    """Images of each source."""
    num_bytes: int
    """Bytes of each source."""

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Order:
        """Inverse of `to_json`."""
        raw = json.loads(text)
        families = tuple(
            CropFamily(size=f["size"], num=f["num"], scale=tuple(f["scale"]))
            for f in raw.pop("families")
        )
        return Order(families=families, limits=LimitsConfig(**raw.pop("limits")), **raw)


@dataclass(slots=True, kw_only=True)
class Reading:
    """What came out of one source."""

    tried: int = 0
    """Shards that were opened."""
    images: int = 0
    """Usable images."""
    num_bytes: int = 0
    """Their bytes in the tars, headers and labels included."""
    timed: int = 0
    """Images whose time was taken: the first one pays for what is set up once."""
    seconds: float = 0.0
    """Seconds to read, decode and crop these."""
    short_sides: list[int] = field(default_factory=list)
    """Of the usable images, in pixels."""
    bad_images: list[str] = field(default_factory=list)
    """Shard, key and reason of each that cannot be used."""
    bad_shards: list[str] = field(default_factory=list)
    """Name and fault of each."""


def read_all(order: Order) -> dict[str, Reading]:
    """The readings of all sources; at least one image of each, however late."""
    readings = {}
    begun = time.monotonic()
    for number, (source, paths) in enumerate(order.shards.items()):
        # A source that needs little of its share leaves it to those after it.
        left = order.seconds - (time.monotonic() - begun)
        until = time.monotonic() + max(left, 0.0) / (len(order.shards) - number)
        readings[source] = _read(order, source, paths, until=until)
    return readings


def _read(order: Order, source: str, paths: Sequence[str], *, until: float) -> Reading:
    reading = Reading()
    crops = empty_crops(order.families, 1)
    for number, path in enumerate(paths):
        rest = len(paths) - number
        images = reading.images + -(-(order.images - reading.images) // rest)
        num_bytes = reading.num_bytes + -(-(order.num_bytes - reading.num_bytes) // rest)
        deadline = time.monotonic() + max(until - time.monotonic(), 0.0) / rest
        _say({"shard": path})
        _read_shard(order, source, path, reading, crops, images, num_bytes, deadline)
        spent = time.monotonic() >= until or reading.num_bytes >= order.num_bytes
        if spent and reading.images:
            break
    return reading


def _read_shard(
    order: Order, source: str, path: str, reading: Reading,
    crops: tuple[npt.NDArray[np.uint8], ...], images: int, num_bytes: int, deadline: float,
) -> None:  # fmt: skip
    try:
        status = Path(path).stat()
    except OSError:
        return  # moved away meanwhile
    shard = Shard(
        url=path, size_bytes=status.st_size, fingerprint=fingerprint(status),
        discovered_at=time.time(), source=source,
    )  # fmt: skip
    # A tar that is still being copied ends early; the source would not offer it yet.
    young = time.time() - status.st_mtime < order.settle_s
    reader = ShardReader(shard, limits=order.limits)
    name, images_before = Path(path).name, reading.images
    reading.tried += 1
    try:
        samples = iter(reader)
        while True:
            begun = time.perf_counter()
            sample = next(samples, None)
            if sample is None:
                break
            reason = None
            if isinstance(sample, RawSample):
                reason = _use(sample, shard, order, crops, reading, begun)
            elif not (young and sample.reason == "truncated"):
                reason = f"{sample.reason}: {sample.detail}"
            if reason is not None:
                reading.bad_images.append(f"{name}, key {sample.key!r}: {reason}")
            enough = reading.images + len(reading.bad_images) >= images
            if enough or reading.num_bytes >= num_bytes or time.monotonic() >= deadline:
                return
        fault = reader.fault
    except ShardError as error:
        fault = str(error)
    if fault is not None and young:
        reading.tried -= reading.images == images_before
    elif fault is not None:
        reading.bad_shards.append(fault if path in fault else f"{name}: {fault}")


def _use(
    sample: RawSample, shard: Shard, order: Order, crops: tuple[npt.NDArray[np.uint8], ...],
    reading: Reading, begun: float,
) -> str | None:  # fmt: skip
    """Decode and crop one image; why it cannot be used, or None."""
    sides = []

    def reduce(height: int, width: int) -> int:
        sides.append(min(height, width))
        return largest_reduction(height, width, order.families)

    try:
        image = decode_image(sample.image, order.limits, reduce=reduce)
    except SampleError as error:
        return f"{error.reason}: {error}"
    rng = sample_generator(0, SampleId(shard.id, sample.index), 0)
    multicrop(image, order.families, rng, [family[:, 0] for family in crops])
    if reading.images:
        reading.timed += 1
        reading.seconds += time.perf_counter() - begun
    reading.images += 1
    stored = BLOCK + -(-len(sample.image) // BLOCK) * BLOCK
    reading.num_bytes += stored if sample.label is None else stored + 2 * BLOCK
    reading.short_sides.append(sides[-1])
    return None


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    found = read_all(Order.from_json(sys.stdin.read()))
    _say({"readings": {name: dataclasses.asdict(reading) for name, reading in found.items()}})
