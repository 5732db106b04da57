"""Near-duplicates: what changes a picture little is recognised, and other pictures are not."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.near_duplicates import AT_ONCE, NearDuplicates, difference_hashes, gray_cells
from streams.testing import jpeg_bytes


def picture(seed, size=(150, 200)):
    return decode_image(jpeg_bytes(seed, size), LimitsConfig())


STREAM = [gray_cells(picture(seed)) for seed in (0, 1, 2, 1, 0, 3)]


def encoded_again(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return decode_image(buffer.getvalue(), LimitsConfig())


def resized(image, by):
    height, width = image.shape[:2]
    size = (round(by * width), round(by * height))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def seen(images, window=4096):
    """Flags of images that come one by one."""
    reader = NearDuplicates(window)
    return [flag for image in images for flag in reader.seen([gray_cells(image)])]


def test_the_same_picture_is_seen_the_second_time():
    assert seen([picture(0), picture(1), picture(0), picture(1)]) == [False, False, True, True]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded_again(image, 90),
        lambda image: encoded_again(image, 50),
        lambda image: (0.9 * image).astype(np.uint8),
        lambda image: np.minimum(1.1 * image, 255).astype(np.uint8),
        lambda image: resized(image, 0.8),
        lambda image: image[2:-1, 2:-2],
    ],
    ids=["quality 90", "quality 50", "darker", "brighter", "smaller", "cut"],
)
def test_a_picture_that_changed_little_is_recognised(change):
    images = [picture(seed) for seed in range(20)]
    flags = seen(images + [change(image) for image in images])
    assert flags == [False] * 20 + [True] * 20


def test_different_pictures_are_not_taken_for_each_other():
    smooth = [picture(seed, (48, 48)) for seed in range(300)]
    assert sum(seen(smooth)) <= 3, "two pictures of five soft spots a side may look alike"
    noise = np.random.default_rng(0).integers(0, 256, (300, 32, 40, 3), dtype=np.uint8)
    assert sum(seen(list(noise))) == 0


def test_pictures_of_one_colour_are_near_duplicates_also_with_a_little_noise():
    levels = np.random.default_rng(0).normal(0, 3, (5, 120, 160, 3))
    dark = [(20 + noise).astype(np.uint8) for noise in levels]
    flat = [np.full((30, 40, 3), colour, dtype=np.uint8) for colour in (0, 17, 254, 255)]
    assert seen(flat + dark) == [False] + [True] * 8


def test_what_left_the_window_is_forgotten():
    others = [picture(seed) for seed in range(1, 4)]
    assert seen([picture(0), *others[:2], picture(0)], window=3)[-1]
    assert not seen([picture(0), *others, picture(0)], window=3)[-1]


@given(st.lists(st.integers(1, 2 * AT_ONCE + 3), min_size=1, max_size=8))
def test_flags_do_not_depend_on_how_many_come_at_once(calls):
    reader, flags = NearDuplicates(), []
    stream = (STREAM * sum(calls))[: sum(calls)]
    for num in calls:
        flags += reader.seen(stream[len(flags) : len(flags) + num])
    assert flags == ([False, False, False, True, True, False] + [True] * sum(calls))[: sum(calls)]


def test_nothing_is_no_picture():
    reader = NearDuplicates()
    assert reader.seen([]) == []
    assert reader.seen([gray_cells(picture(0))]) == [False]


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    brighter=st.integers(1, 100),
)
def test_adding_brightness_without_clipping_changes_no_bit(seed, height, width, brighter):
    image = np.random.default_rng(seed).integers(0, 156, (height, width, 3), dtype=np.uint8)
    one, other = difference_hashes([gray_cells(image), gray_cells(image + np.uint8(brighter))]).T
    assert np.array_equal(one, other)


def test_a_bit_says_where_it_gets_brighter():
    ramp = np.repeat(np.arange(0, 180, 2, dtype=np.uint8)[None, :, None], 90, axis=0)
    to_the_right = np.repeat(ramp, 3, axis=2)
    downwards = to_the_right.transpose(1, 0, 2).copy()
    left = to_the_right[:, ::-1].copy()
    every = 2**64 - 1
    hashes = difference_hashes([gray_cells(image) for image in (to_the_right, downwards, left)])
    assert hashes.T.tolist() == [[every, 0], [0, every], [0, 0]]
