"""Crops: distributed as torchvision's, resized as Pillow's, decided by the sample alone."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from streams.config import CropFamily, LimitsConfig
from streams.decode import decode_image
from streams.multicrop import draw_boxes, largest_reduction, multicrop, sample_generator
from streams.shard import SampleId

FAMILIES = (
    CropFamily(size=24, num=2, scale=(0.14, 1.0)),
    CropFamily(size=12, num=4, scale=(0.05, 0.14)),
)


def smooth_image(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(picture)


def cut(image, families, rng):
    """Crops `[V, S, S, 3]` per family."""
    out = [np.empty((f.num, f.size, f.size, 3), dtype=np.uint8) for f in families]
    multicrop(image, families, rng, out)
    return out


def generator(index=0, seed=0, pass_number=0):
    return sample_generator(seed, SampleId("0123456789abcdef", index), pass_number)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    low=st.floats(0.01, 1.0),
    high=st.floats(0.01, 1.0),
    index=st.integers(0, 10**6),
)
def test_boxes_lie_inside_the_image(height, width, low, high, index):
    scale = (min(low, high), max(low, high))
    boxes = draw_boxes(generator(index), height, width, num=4, scale=scale)
    for top, left, h, w in boxes:
        assert 1 <= h <= height - top
        assert 1 <= w <= width - left
        assert top >= 0
        assert left >= 0


def kolmogorov_smirnov(a, b):
    """Largest distance between two empirical distribution functions."""
    points = np.sort(np.concatenate([a, b]))
    a_below = np.searchsorted(np.sort(a), points, side="right") / len(a)
    b_below = np.searchsorted(np.sort(b), points, side="right") / len(b)
    return np.abs(a_below - b_below).max()


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(64, 64, (0.14, 1.0)), (64, 64, (0.05, 0.14)), (50, 120, (0.5, 1.0)), (120, 50, (0.8, 1.0))],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    num = 3000
    ours = np.array(draw_boxes(generator(), height, width, num=num, scale=scale))
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(num)]
        )
    critical = 1.95 * np.sqrt(2 / num)  # level 0.001
    for column in range(4):
        assert kolmogorov_smirnov(ours[:, column], theirs[:, column]) < critical
    area, shape = (lambda b: b[:, 2] * b[:, 3]), (lambda b: b[:, 3] / b[:, 2])
    assert kolmogorov_smirnov(area(ours), area(theirs)) < critical
    assert kolmogorov_smirnov(shape(ours), shape(theirs)) < critical


@pytest.mark.parametrize(("height", "width"), [(400, 10), (10, 400), (37, 5), (90, 100)])
def test_where_nothing_fits_the_box_is_central_as_torchvisions(height, width):
    # No box of this area is allowed except in the last case, where only the whole image is.
    scale = (1.0, 1.0)
    expected = RandomResizedCrop.get_params(
        torch.empty(3, height, width), list(scale), [3 / 4, 4 / 3]
    )
    if (height, width) == (90, 100):
        expected = (0, 0, 90, 100)
        boxes = draw_boxes(generator(), height, width, num=1, scale=scale, ratio=(10 / 9, 10 / 9))
    else:
        boxes = draw_boxes(generator(), height, width, num=1, scale=scale)
    assert boxes == [tuple(expected)]


def natural_image(height, width, seed):
    """Noise with the spectrum of JPEG photographs: plain interpolation is as far off on both."""
    noise = np.random.default_rng(seed).standard_normal((3, height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = np.inf
    waves = np.fft.ifft2(np.fft.fft2(noise) / frequency**1.3).real
    pixels = 128 + 60 * waves / waves.std(axis=(1, 2), keepdims=True)
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def differences_to_pillow(image, family, index):
    """Mean absolute difference of each crop to Pillow's filter; how many were flipped."""
    (crops,) = cut(image, [family], generator(index))
    picture, rng, flips, found = Image.fromarray(image), generator(index), 0, []
    boxes = draw_boxes(rng, *image.shape[:2], num=family.num, scale=family.scale)
    for crop, (top, left, h, w) in zip(crops, boxes, strict=True):
        region = picture.crop((left, top, left + w, top + h))
        expected = np.array(region.resize((family.size,) * 2, Image.Resampling.BILINEAR))
        if rng.random() < 0.5:
            expected, flips = expected[:, ::-1], flips + 1
        found.append(np.abs(crop - expected.astype(int)).mean())
    return found, flips


def test_crops_are_close_to_pillows_antialiased_filter():
    """The bound: one level of 255 in the mean, four at the 95th percentile of crops."""
    families = (CropFamily(size=224, num=2, scale=(0.14, 1.0)),
                CropFamily(size=96, num=6, scale=(0.05, 0.14)))  # fmt: skip
    found, flips = [], 0
    for index in range(12):
        for family in families:
            new, flipped = differences_to_pillow(natural_image(375, 500, index), family, index)
            found, flips = found + new, flips + flipped
    assert np.mean(found) <= 1
    assert np.percentile(found, 95) <= 4
    assert 20 < flips < 76


@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_a_reduced_picture_keeps_the_resolution_of_every_crop(height, width):
    by = largest_reduction(height, width, FAMILIES)
    assert by in (1, 2, 4, 8)
    for family in FAMILIES:
        boxes = draw_boxes(generator(), height, width, num=20, scale=family.scale)
        assert by == 1 or min(h * w for _, _, h, w in boxes) ** 0.5 / family.size >= 1.39 * by


def test_crops_of_a_reduced_picture_are_close_to_pillows_of_the_whole():
    family = CropFamily(size=32, num=16, scale=(0.14, 1.0))
    whole = natural_image(750, 1000, seed=1)
    by = largest_reduction(750, 1000, [family])
    assert by == 4
    buffer = io.BytesIO()
    Image.fromarray(whole).save(buffer, "JPEG", quality=95)
    small = decode_image(buffer.getvalue(), LimitsConfig(), reduce=lambda *_: by)
    (crops,) = cut(small, [family], generator())
    picture, rng = Image.open(buffer), generator()
    boxes = draw_boxes(rng, *small.shape[:2], num=family.num, scale=family.scale)
    differences = []
    for crop, box in zip(crops, boxes, strict=True):
        top, left, h, w = (by * side for side in box)
        region = picture.crop((left, top, min(left + w, 1000), min(top + h, 750)))
        expected = np.array(region.resize((32, 32), Image.Resampling.BILINEAR))
        if rng.random() < 0.5:
            expected = expected[:, ::-1]
        differences.append(np.abs(crop - expected.astype(int)).mean())
    assert np.mean(differences) <= 2
    assert max(differences) <= 4


@pytest.mark.parametrize("size", [150, 64, 50, 32, 20, 12])
def test_crops_that_grow_or_shrink_a_little_or_a_lot(size):
    """150 grows, 64 is interpolated, 50 has its rows halved, 32 its columns too, 20 is smoothed
    before that, 12 halved first."""
    family = CropFamily(size=size, num=4, scale=(0.4, 0.6))
    found, _ = differences_to_pillow(natural_image(90, 110, size), family, size)
    assert max(found) <= 4


def test_crops_have_the_shapes_of_their_families():
    large, small = cut(smooth_image(50, 40), FAMILIES, generator())
    assert (large.dtype, large.shape) == (np.uint8, (2, 24, 24, 3))
    assert (small.dtype, small.shape) == (np.uint8, (4, 12, 12, 3))


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_tiny_images_can_be_cropped(height, width):
    crops = cut(smooth_image(height, width), FAMILIES, generator())
    assert [family.shape for family in crops] == [(2, 24, 24, 3), (4, 12, 12, 3)]


def test_a_flat_image_stays_flat():
    image = np.full((60, 60, 3), (10, 128, 250), dtype=np.uint8)
    for family in cut(image, FAMILIES, generator()):
        assert (family == image[:1, :1]).all()


def test_half_of_the_crops_are_flipped():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None], (64, 1, 3))
    family = CropFamily(size=8, num=2000, scale=(0.5, 1.0))
    (crops,) = cut(ramp, [family], generator())
    flipped = (crops[:, 0, 0, 0] > crops[:, 0, -1, 0]).mean()
    assert abs(flipped - 0.5) < 0.04


def test_crops_are_decided_by_seed_sample_and_pass():
    image = smooth_image(60, 60)

    def crops(**where):
        return cut(image, FAMILIES, generator(**where))[0]

    assert np.array_equal(crops(), crops())
    for other in ({"index": 1}, {"seed": 1}, {"pass_number": 1}):
        assert not np.array_equal(crops(), crops(**other))


def test_the_generator_is_the_same_on_every_machine():
    rng = sample_generator(7, SampleId("ab", 3), 1)
    assert [rng.random() for _ in range(3)] == [
        0.8411636508767718,
        0.023741762336382144,
        0.9497256884468132,
    ]


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float32"):
        cut(np.zeros((8, 8, 3), dtype=np.float32), FAMILIES, generator())
    with pytest.raises(ValueError, match=r"got uint8 \[8, 8, 1\]"):
        cut(np.zeros((8, 8, 1), dtype=np.uint8), FAMILIES, generator())
