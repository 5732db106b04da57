"""The crops of a few images as the learner sees them: its geometry, its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from online_swav.config import RunConfig
from online_swav.learning.augment import PhotometricAugment
from online_swav.learning.config import AugmentConfig
from online_swav.report.samples import SampleImage
from online_swav.report.thumbnails import jpeg_whole, uri
from streams.decode import decode_image
from streams.errors import SampleError
from streams.ingest import empty_crops
from streams.multicrop import largest_reduction, multicrop, sample_generator

WHOLE_PX = 120
LARGE_PX, SMALL_PX = 104, 72
"""Pixels of the crops of the first family, and of the others; smaller crops stay as they are."""


@dataclass(frozen=True, slots=True)
class CroppedImage:
    """An image and its crops."""

    key: str
    whole: str
    """As a data URI."""
    families: tuple[tuple[str, ...], ...]
    """Crops of each family, as data URIs."""


def crop_images(config: RunConfig, images: Sequence[SampleImage]) -> list[CroppedImage]:
    """The crops of the images whose bytes were kept; of their first pass, in new colours."""
    augment = config.learner.augment
    colours = PhotometricAugment(
        jitter=augment.jitter, jitter_p=augment.jitter_p, grayscale_p=augment.grayscale_p,
        blur_p=augment.blur_p, blur_sigma=augment.blur_sigma, mean=augment.mean, std=augment.std,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    reduce = partial(largest_reduction, families=config.crops)
    found = []
    for image in images:
        if image.encoded is None:
            continue
        try:
            pixels = decode_image(image.encoded, config.ingest.limits, reduce=reduce)
        except SampleError:
            continue
        families = empty_crops(config.crops, 1)
        rng = sample_generator(config.seed, image.id, 0)
        multicrop(pixels, config.crops, rng, [family[:, 0] for family in families])
        sides = [LARGE_PX, *[SMALL_PX] * (len(families) - 1)]
        views = [_coloured(family[:, 0], colours, generator, augment) for family in families]
        shown = tuple(
            tuple(uri(jpeg_whole(view, side)) for view in family)
            for family, side in zip(views, sides, strict=True)
        )
        found.append(CroppedImage(image.key, uri(jpeg_whole(pixels, WHOLE_PX)), shown))
    return found


def _coloured(
    views: npt.NDArray[np.uint8], colours: PhotometricAugment, generator: torch.Generator,
    augment: AugmentConfig,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Crops `[V, S, S, 3]` in the learner's colours, without its normalisation."""
    crops = torch.from_numpy(views).permute(0, 3, 1, 2)
    normalised = colours.apply(crops, colours.draw(len(crops), generator=generator))
    shift, scale = (torch.tensor(value).view(3, 1, 1) for value in (augment.mean, augment.std))
    pixels = (normalised * scale + shift).clamp(0, 1).mul(255).round().to(torch.uint8)
    shown: npt.NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return shown
