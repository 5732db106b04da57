"""Near-duplicates in the stream: whether a reader saw nearly the same picture lately.

A picture is known by its difference hash (Krawetz 2013, "Kind of Like That"): the picture as 9 x 9
gray cells, and for 8 x 8 of them whether the right neighbour is brighter, and whether the one below
is. Of these 128 bits few change when a picture is encoded again, resized or brightened. Pictures
whose hashes differ in at most `RADIUS` bits count as near-duplicates. All pictures of one colour
are near-duplicates of each other.

Measured with 4,096 pictures remembered, on pictures that are all different, and on copies of them
that were changed and encoded again:

| flagged, % | Imagenette (13,394) | ImageNet (250) |
|---|---|---|
| different pictures: skies, and things on white | 0.18 | 0 |
| copies: JPEG quality 90, 70, 50; brightness +-10%; contrast -20% | 99.9 or more | 100 |
| copies: noise of 8 gray levels | 99 | 99 |
| copies: resized by 0.8; 0.5 | 100; 100 | 98; 97 |
| copies: 2% cut off around; off a corner | 91; 76 | 82; 60 |
| copies: shifted by 1%; 2% | 73; 51 | 59; 33 |
| mirrored | 1 | 1 |

Half as many bits, those to the right alone, within 5 (0.28% of the different pictures), find 33% of
the Imagenette copies without a corner, and 17% of those shifted by 2%. More picked pixels, 7 along
a cell, find 86% and 60% for a quarter more time. As it is, ingest takes 11 to 17 microseconds more
for a picture: 1% at 500 x 375 pixels, 4% at 224 x 224.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

RADIUS = 17
"""Largest number of bits, of 128, in which near-duplicates differ."""
CELLS = 9
PIXELS = 5
"""Pixels picked along a cell. Odd, so that no mean of a cell lies half-way between two gray levels:
then a picture made brighter rounds as before."""
MARGIN = 1
"""Gray levels by which brighter is not enough: noise in a plain picture is no structure."""
AT_ONCE = 16
"""Pictures that are compared together; more would leave the processor's cache."""
_NOT_BEFORE = np.triu(np.full((AT_ONCE, AT_ONCE), 255, dtype=np.uint8))


def gray_cells(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture as few gray cells: all that its hash needs.

    Args:
        image: uint8 `[H, W, 3]`, RGB.

    Returns:
        uint8 `[9, 9]`.
    """
    side = CELLS * PIXELS
    picked = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
    gray = cv2.cvtColor(picked, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (CELLS, CELLS), interpolation=cv2.INTER_AREA), np.uint8)


def difference_hashes(cells: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint64]:
    """Hashes of pictures.

    Args:
        cells: N pictures as `gray_cells`.

    Returns:
        uint64 `[2, N]`: where a picture gets brighter to the right, and where downwards.
    """
    levels = np.array(cells, dtype=np.int16)
    here = levels[:, :-1, :-1] + MARGIN
    brighter = np.stack((levels[:, :-1, 1:] > here, levels[:, 1:, :-1] > here))
    return np.packbits(brighter).view(np.uint64).reshape(2, len(cells))


class NearDuplicates:
    """Remembers the newest pictures.

    Args:
        window: How many, beside those of the current call.
    """

    def __init__(self, window: int = 4096) -> None:
        self._window = window
        self._known = np.empty((2, 0), dtype=np.uint64)

    def seen(self, cells: Sequence[npt.NDArray[np.uint8]]) -> list[bool]:
        """Which pictures are nearly the same as a remembered one or one before them.

        They are remembered from now on.

        Args:
            cells: Pictures as `gray_cells`, in the order of the stream.
        """
        if not cells:
            return []
        known = np.concatenate((self._known, difference_hashes(cells)), axis=1)
        flags: list[bool] = []
        for start in range(self._known.shape[1], known.shape[1], AT_ONCE):
            end = start + AT_ONCE
            flags += _near_one_before(known[:, :end], known[:, start:end])
        self._known = known[:, -self._window :]
        return flags


def _near_one_before(known: npt.NDArray[np.uint64], last: npt.NDArray[np.uint64]) -> list[bool]:
    """Whether each of the `last` hashes is near one that stands before it in `known`."""
    right, below = (np.bitwise_count(k ^ n[:, None]) for k, n in zip(known, last, strict=True))
    differing = right + below
    num = last.shape[1]
    differing[:, -num:] |= _NOT_BEFORE[:num, :num]
    near: list[bool] = (differing.min(axis=1) <= RADIUS).tolist()
    return near
