"""Geometry of the crops (Caron et al. 2020, section 3.2): random resized crop and flip.

Randomness belongs to the sample: its generator is seeded by run seed, identity and pass, so any
worker cuts the same crops. Colour is changed later, on the device.

Resizing is the second cost of ingest after decoding. Pillow's antialiased bilinear filter is the
yardstick; most crops shrink by less than two, where cheaper filters of OpenCV come close enough
(`_resize`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from streams.config import CropFamily
from streams.shard import SampleId

cv2.setNumThreads(1)  # a reader is one core; more readers use more cores
SPARE_RESOLUTION = 1.4
"""Of a picture that is decoded smaller: what its smallest crop keeps beyond its own pixels."""
# How far a side may shrink, see `_resize`.
PLAIN_BELOW, ROWS_HALVED_BELOW, HALVED_BELOW, REDUCED_FROM = 1.2, 1.5, 2.0, 4.0

Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""


def sample_generator(seed: int, sample: SampleId, pass_number: int) -> random.Random:
    """The random generator of one image in one pass, the same on every worker and machine.

    Not NumPy's: a generator of its own per image, for forty draws, costs several times more there.
    """
    return random.Random(f"{seed}\0{sample.shard_id}\0{sample.index}\0{pass_number}")


def draw_boxes(
    rng: random.Random,
    height: int,
    width: int,
    *,
    num: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> list[Box]:
    """Boxes distributed as those of torchvision's `RandomResizedCrop.get_params`.

    Args:
        rng: Source of randomness.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        num: Boxes to draw.
        scale: Share of the image's area, uniform between its ends.
        ratio: Width by height, log-uniform between its ends.

    Returns:
        `num` boxes inside the image. Where ten tries do not fit, the largest central box whose
        ratio is allowed.
    """
    return [_draw_box(rng, height, width, scale, ratio) for _ in range(num)]


def _draw_box(
    rng: random.Random,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(low + (high - low) * rng.random())
        w = round(math.sqrt(area * aspect))
        h = round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.random() * (height - h + 1))
            left = int(rng.random() * (width - w + 1))
            return top, left, h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, round(height * aspect))
    h = min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def largest_reduction(height: int, width: int, families: Sequence[CropFamily]) -> int:
    """By how much a picture may be decoded smaller: 1, 2, 4 or 8.

    The smallest crop that may be drawn keeps `SPARE_RESOLUTION` times the resolution it needs; it
    depends on the size alone, so every worker cuts the same crops.

    Args:
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        families: Crop families.
    """
    # Where no box of its share fits, in a long panorama, the short side bounds a crop.
    short = min(height, width)
    least = min(min(math.sqrt(f.scale[0] * height * width), short) / f.size for f in families)
    return next((by for by in (8, 4, 2) if least >= by * SPARE_RESOLUTION), 1)


def multicrop(
    image: npt.NDArray[np.uint8],
    families: Sequence[CropFamily],
    rng: random.Random,
    out: Sequence[npt.NDArray[np.uint8]],
) -> None:
    """Cut all crops of one image: antialiased resize, flipped left to right with probability 0.5.

    Args:
        image: uint8 `[H, W, 3]`.
        families: Crop families.
        rng: From `sample_generator`.
        out: Where the crops go: one uint8 array `[V_r, S_r, S_r, 3]` per family.

    Raises:
        ValueError: If the image is not uint8 with three channels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    for family, views in zip(families, out, strict=True):
        boxes = draw_boxes(rng, height, width, num=family.num, scale=family.scale)
        for view, (top, left, h, w) in zip(views, boxes, strict=True):
            _resize(image[top : top + h, left : left + w], view)
            if rng.random() < 0.5:
                cv2.flip(view, 1, dst=view)


def _resize(region: MatLike, view: MatLike) -> None:
    """Resize `[h, w, 3]` into `[S, S, 3]`, close to Pillow's antialiased bilinear filter.

    That filter is bilinear interpolation where a picture grows, and a triangle as wide as two
    target pixels where it shrinks. Interpolation alone is close to it up to `PLAIN_BELOW`; with
    twice the rows and the mean of each two, up to `ROWS_HALVED_BELOW`; with twice the rows and
    columns and the mean of 2 x 2, up to `HALVED_BELOW`; beyond, smoothed before that mean. What
    shrinks by `REDUCED_FROM` or more is halved until it does not.
    """
    side = view.shape[0]
    shrink = math.sqrt(region.shape[0] * region.shape[1]) / side
    if shrink < PLAIN_BELOW:
        cv2.resize(region, (side, side), dst=view, interpolation=cv2.INTER_LINEAR)
        return
    if shrink < ROWS_HALVED_BELOW:
        rows = cv2.resize(region, (side, 2 * side), interpolation=cv2.INTER_LINEAR)
        cv2.addWeighted(rows[0::2], 0.5, rows[1::2], 0.5, 0, dst=view)
        return
    smooth = shrink >= HALVED_BELOW
    while shrink >= REDUCED_FROM:
        half = ((region.shape[1] + 1) // 2, (region.shape[0] + 1) // 2)
        region, shrink = cv2.resize(region, half, interpolation=cv2.INTER_LINEAR), shrink / 2
    double = cv2.resize(region, (2 * side, 2 * side), interpolation=cv2.INTER_LINEAR)
    if smooth:
        double = cv2.GaussianBlur(double, (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    cv2.resize(double, (side, side), dst=view, interpolation=cv2.INTER_AREA)
