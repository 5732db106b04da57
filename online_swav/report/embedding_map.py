"""A map of the embeddings: their two main directions, as dots and as thumbnails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from online_swav.report import plots
from online_swav.report.encoder import Encoded
from online_swav.report.samples import SampleImage
from online_swav.report.thumbnails import uri

SIDE_PX = 520.0
THUMBNAIL_SHARE = 0.064
"""Side of a thumbnail as a share of the map's."""
MOST_DOTS = 2000
_MARGIN = 0.045


@dataclass(frozen=True, slots=True)
class Pin:
    """A thumbnail at its place; percent of the map's side."""

    uri: str
    words: str
    left: float
    top: float
    color: str
    """A style sheet variable."""


@dataclass(frozen=True, slots=True)
class Map:
    """Two pictures of the same places."""

    dots: Markup
    pins: tuple[Pin, ...]
    side: float
    """Of a thumbnail, percent of the map's side."""
    keys: tuple[tuple[str, str], ...]
    """Colour (a style sheet variable) and name of the labels; empty without any."""
    explained: str
    """Share of the variance that the map shows."""


def embedding_map(images: Sequence[SampleImage], encoded: Encoded) -> Map:
    """The map of the sample as one checkpoint sees it."""
    places, explained = principal_plane(encoded.embeddings)
    colors, keys = _colors([image.label for image in images])
    return Map(
        dots=_dots(places, colors),
        pins=tuple(_pins(images, places, colors)),
        side=100 * THUMBNAIL_SHARE,
        keys=keys,
        explained=f"{explained:.0%}",
    )


def principal_plane(embeddings: Tensor) -> tuple[Tensor, float]:
    """Places [N, 2] in [0, 1] on the two main directions, and the share of variance on them.

    Each direction is stretched to the whole side. Its sign is chosen by the data, so that two
    reports of one run do not mirror each other.
    """
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    plane = torch.zeros(len(embeddings), 2, dtype=torch.float64)
    for number, direction in enumerate(directions[:2]):
        sign = direction[direction.abs().argmax()].sign()
        plane[:, number] = centred @ direction * sign
    low, high = plane.amin(dim=0), plane.amax(dim=0)
    places = (plane - low) / (high - low).clamp(min=1e-12)
    total = float((spread**2).sum())
    share = float((spread[:2] ** 2).sum()) / total if total > 0 else 0.0
    return _MARGIN + places * (1 - 2 * _MARGIN), share


def _colors(labels: Sequence[int | None]) -> tuple[list[int | None], tuple[tuple[str, str], ...]]:
    """Number of each image's colour, and the legend; rare labels share none."""
    counts = Counter(label for label in labels if label is not None)
    common = sorted(label for label, _ in counts.most_common(len(plots.CATEGORIES)))
    numbers = {label: number for number, label in enumerate(common)}
    keys = [(f"--c{number + 1}", f"label {label}") for label, number in numbers.items()]
    if len(counts) > len(common):
        keys.append(("--faint", f"{len(counts) - len(common)} other labels"))
    return [None if label is None else numbers.get(label) for label in labels], tuple(keys)


def _dots(places: Tensor, colors: Sequence[int | None]) -> Markup:
    picture = plots.figure(SIDE_PX, SIDE_PX)
    picture.set_layout_engine("none")
    axes = plots.axes(picture, grid=False)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    colored = any(color is not None for color in colors)
    shown = range(min(len(colors), MOST_DOTS))
    for number in {colors[i] for i in shown}:
        index = [i for i in shown if colors[i] == number]
        none = plots.QUIET if colored else plots.ACCENT
        color = none if number is None else plots.CATEGORIES[number]
        axes.plot(places[index, 0], places[index, 1], "o", color=color, markersize=4.2,
                  markeredgewidth=0, alpha=0.75)  # fmt: skip
    return plots.svg(picture, name="map", title="Map of the embeddings, a dot for each image")


def _pins(images: Sequence[SampleImage], places: Tensor, colors: Sequence[int | None]) -> list[Pin]:
    """Thumbnails that do not cover each other, of images in random order."""
    order = list(range(len(images)))
    random.Random(0).shuffle(order)
    taken: list[tuple[float, float]] = []
    pins = []
    half = THUMBNAIL_SHARE / 2
    for i in order:
        x, y = (min(max(float(v), half), 1 - half) for v in places[i])
        if any(abs(x - a) < THUMBNAIL_SHARE and abs(y - b) < THUMBNAIL_SHARE for a, b in taken):
            continue
        taken.append((x, y))
        image, color = images[i], colors[i]
        label = f", label {image.label}" if image.label is not None else ""
        pins.append(
            Pin(uri(image.thumbnail), f"{image.key}{label}", round(100 * (x - half), 2),
                round(100 * (1 - y - half), 2),
                "--line" if color is None else f"--c{color + 1}")
        )  # fmt: skip
    return pins
