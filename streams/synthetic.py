"""The embedded labelled stream: shapes x textures under nuisance colour, position and clutter.

A class is a shape filled with a texture. Colours are drawn without regard to the class, so colour
does not give it away. `drift` moves the statistics of the nuisances over time, as a real stream's.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streams.pack import write_shard

SHAPES = ("disc", "square", "triangle")
TEXTURES = ("bars", "columns", "checker", "dots")
CLASS_NAMES = tuple(f"{shape} {texture}" for shape, texture in itertools.product(SHAPES, TEXTURES))
NUM_CLASSES = len(CLASS_NAMES)
MIN_SIZE = 8
"""Smallest side in pixels: readers drop smaller pictures."""

Image8 = NDArray[np.uint8]
_Plane = NDArray[np.floating[Any]]


def render(label: int, rng: np.random.Generator, *, size: int = 64, drift: float = 0.0) -> Image8:
    """One picture `[size, size, 3]` of class `label`.

    Args:
        label: 0 .. NUM_CLASSES - 1.
        rng: Draws everything but the class.
        size: Side, in pixels.
        drift: 0 to 1; darker, more cluttered pictures of smaller shapes towards 1.

    Raises:
        ValueError: If there is no such class, or `size` is under `MIN_SIZE`.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    if not 0 <= label < NUM_CLASSES:
        raise ValueError(f"label must lie in 0..{NUM_CLASSES - 1}, got {label}")
    shape, texture = divmod(label, len(TEXTURES))
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    dark, bright, paper = _colours(rng)
    canvas = paper + _background(rng, x, y)[..., None]
    for _ in range(rng.integers(1, 4) + round(3 * drift)):
        _draw_clutter(rng, canvas, x, y)
    radius = rng.uniform(0.7, 0.95) * (1 - 0.25 * drift)
    cx, cy = rng.uniform(-0.2, 0.2, size=2)
    angle = rng.uniform(-0.35, 0.35)
    u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / radius
    v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / radius
    edge = 3.0 / (size * radius)
    mask = np.clip(0.5 - _distance(SHAPES[shape], u, v) / edge, 0, 1)[..., None]
    paint = _texture(TEXTURES[texture], rng, x, y)[..., None]
    filled = dark + (bright - dark) * paint
    canvas = canvas * (1 - mask) + filled * mask
    canvas = canvas * rng.uniform(0.75, 1.1) * (1 - 0.3 * drift)
    canvas = canvas + rng.normal(0, 0.03, size=canvas.shape)
    picture: Image8 = (np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    return picture


def _colours(rng: np.random.Generator) -> tuple[_Plane, ...]:
    """Two tints of the texture, one clearly brighter, and one of the background."""
    tint = rng.uniform(-0.2, 0.2, size=(3, 3))
    dark, bright, paper = rng.uniform(0.1, 0.35), rng.uniform(0.65, 0.9), rng.uniform(0.2, 0.8)
    return dark + tint[0], bright + tint[1], paper + tint[2]


def _background(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Plane:
    angle = rng.uniform(0, 2 * np.pi)
    slope: _Plane = rng.uniform(0, 0.25) * (x * np.cos(angle) + y * np.sin(angle))
    return slope


def _draw_clutter(rng: np.random.Generator, canvas: _Plane, x: _Plane, y: _Plane) -> None:
    """A small blob or bar of a random colour, in place."""
    cx, cy = rng.uniform(-1, 1, size=2)
    angle = rng.uniform(0, np.pi)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    width, height = rng.uniform(0.05, 0.3, size=2)
    inside = (u / width) ** 2 + (v / height) ** 2 < 1
    canvas[inside] = rng.uniform(0, 1, size=3)


def _distance(shape: str, u: _Plane, v: _Plane) -> _Plane:
    """Signed distance to the outline, negative inside, in units of the shape's radius."""
    if shape == "disc":
        return np.hypot(u, v) - 0.95
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.8
    return np.maximum(abs(u) * 0.866 + v * 0.5, -v) - 0.55


def _texture(texture: str, rng: np.random.Generator, x: _Plane, y: _Plane) -> _Plane:
    """Weight of the bright colour, in [0, 1]."""
    waves = rng.uniform(3.0, 4.5) * np.pi
    tilt = rng.uniform(-0.3, 0.3)
    shift = rng.uniform(0, 2 * np.pi, size=2)
    across = np.sin(waves * (y * np.cos(tilt) - x * np.sin(tilt)) + shift[0])
    along = np.sin(waves * (x * np.cos(tilt) + y * np.sin(tilt)) + shift[1])
    if texture == "bars":
        wave = across
    elif texture == "columns":
        wave = along
    elif texture == "checker":
        wave = across * along * 2
    else:
        wave = across + along - 0.8
    paint: _Plane = np.clip(wave * 2 + 0.5, 0, 1)
    return paint


def encode(image: Image8) -> bytes:
    """JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_synthetic_shard(
    path: Path, *, num_samples: int, seed: int, shard_index: int, size: int = 64, drift: float = 0.0
) -> None:
    """A shard of `num_samples` pictures, the same for the same (seed, shard_index)."""

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        rng = np.random.default_rng((seed, shard_index))
        for index in range(num_samples):
            label = int(rng.integers(NUM_CLASSES))
            picture = encode(render(label, rng, size=size, drift=drift))
            yield f"{shard_index:06d}-{index:05d}", {"jpg": picture, "cls": b"%d" % label}

    write_shard(path, samples())


def produce(
    folder: Path,
    *,
    shards: int | None,
    samples_per_shard: int,
    every_s: float,
    seed: int,
    size: int = 64,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Write shards over time, from the first free number on; how many were written.

    Drift swings from 0 to 1 and back every 100 shards.

    Raises:
        ValueError: If `samples_per_shard` < 1 or `size` is under `MIN_SIZE`.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    folder.mkdir(parents=True, exist_ok=True)
    written, index = 0, 0
    while (shards is None or written < shards) and not stop():
        path = folder / f"synthetic-{index:06d}.tar"
        if not path.exists():
            begun = time.monotonic()
            drift = 0.5 - 0.5 * float(np.cos(2 * np.pi * index / 100))
            write_synthetic_shard(path, num_samples=samples_per_shard, seed=seed,
                                  shard_index=index, size=size, drift=drift)  # fmt: skip
            written += 1
            while written != shards and time.monotonic() - begun < every_s and not stop():
                time.sleep(0.05)
        index += 1
    return written
