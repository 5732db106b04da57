"""Public test doubles: pictures, shards, damage, clocks, and files that grow."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from streams.pack import write_shard
from streams.shard import Shard
from streams.storage import fingerprint


def jpeg_bytes(seed: int | np.random.Generator, size: tuple[int, int] = (48, 48)) -> bytes:
    """A JPEG of smooth random colour, `size` in pixels (height, width)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    picture = coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_test_shards(
    folder: Path,
    *,
    shards: int,
    samples_per_shard: int,
    seed: int = 0,
    labels: Callable[[int], int] | None = None,
    size: tuple[int, int] = (48, 48),
) -> list[Path]:
    """Write shards of random JPEGs, `shard-000000.tar` and so on, with manifests.

    Args:
        folder: Made if missing.
        shards: How many.
        samples_per_shard: JPEGs in each.
        seed: Of the pictures.
        labels: Label of a sample by its number, counted through all shards; None for no labels.
        size: Height and width of the pictures, in pixels.

    Returns:
        The tars, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(shards):
        samples = []
        for number in range(shard * samples_per_shard, (shard + 1) * samples_per_shard):
            members = {"jpg": jpeg_bytes(np.random.default_rng((seed, number)), size)}
            if labels is not None:
                members["cls"] = str(labels(number)).encode()
            samples.append((f"{number:06d}", members))
        path = folder / f"shard-{shard:06d}.tar"
        write_shard(path, samples)
        paths.append(path)
    return paths


def shard_of(path: Path, source: str = "test") -> Shard:
    """The shard that a source would offer for a file as it is now."""
    status = path.stat()
    return Shard(
        url=str(path.absolute()),
        size_bytes=status.st_size,
        fingerprint=fingerprint(status),
        discovered_at=time.time(),
        source=source,
    )


def truncate(path: Path, at: int, *, to: Path | None = None) -> Path:
    """Cut a tar at byte `at`, in place or as a copy `to`. A manifest beside it is removed."""
    target = path if to is None else to
    if to is not None:
        shutil.copyfile(path, to)
    with target.open("rb+") as file:
        file.truncate(at)
    target.with_name(f"{target.name}.json").unlink(missing_ok=True)
    return target


class FakeClock:
    """A clock that moves only when told to. Call it for the time in seconds."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move forward."""
        self.now += seconds


class GrowingFile:
    """A file that is written in pieces, as by a slow copy.

    Args:
        path: Created empty at once, under its final name.
        data: What it will hold in the end.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._file = path.open("wb", buffering=0)
        self._rest = memoryview(data)

    def write(self, size: int) -> None:
        """Append up to `size` more bytes."""
        self._file.write(self._rest[:size])
        self._rest = self._rest[size:]

    def finish(self) -> None:
        """Append all that is left, and close."""
        self.write(len(self._rest))
        self._file.close()

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; what was not written stays missing."""
        self._file.close()
