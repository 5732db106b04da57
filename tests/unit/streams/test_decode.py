"""Pixels agree with Pillow; hostile and damaged pictures have a reason."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import DecodeError
from streams.testing import jpeg_bytes
from tests.builders import encode, picture, png

LIMITS = LimitsConfig(max_pixels=1_000_000, min_side=8)


def pixels(image):
    return np.array(image.convert("RGB"))


def opened(data):
    return Image.open(io.BytesIO(data))


def fate_of(data):
    try:
        decode_image(data, LIMITS)
    except DecodeError as error:
        return error.reason
    return "decoded"


def reason_of(data, limits=LIMITS):
    with pytest.raises(DecodeError) as caught:
        decode_image(data, limits)
    return caught.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM"])
def test_formats(format):
    data = encode(picture(), format)
    image = decode_image(data, LIMITS)
    assert (image.dtype, image.shape) == (np.uint8, (30, 40, 3))
    assert np.array_equal(image, pixels(opened(data)))


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [("L", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}),
     ("P", "PNG", {}), ("1", "PNG", {}), ("L", "PNG", {}), ("L", "PPM", {})],
)  # fmt: skip
def test_modes_agree_with_pillow(mode, format, options):
    data = encode(picture(mode), format, **options)
    assert np.array_equal(decode_image(data, LIMITS), pixels(opened(data)))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_subsampled_jpegs_agree_with_pillow(subsampling):
    data = encode(picture(), "JPEG", subsampling=subsampling)
    assert np.array_equal(decode_image(data, LIMITS), pixels(opened(data)))


@pytest.mark.parametrize("factors", range(256))
def test_any_sampling_factors_are_decoded_or_have_a_reason(factors):
    data = bytearray(encode(picture(), "JPEG", subsampling="4:4:4"))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 11] = factors  # of the luminance
    assert fate_of(bytes(data)) in {"decoded", "corrupt"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), format, exif=exif)
    assert np.array_equal(decode_image(data, LIMITS), pixels(ImageOps.exif_transpose(opened(data))))


def test_orientation_behind_fill_bytes_is_applied():
    """Any number of 0xFF may stand before a marker."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(), "JPEG", exif=exif)
    turned = ImageOps.exif_transpose(opened(data))
    filled = data[:2] + b"\xff\xff" + data[2:]
    assert np.array_equal(decode_image(filled, LIMITS), pixels(turned))


def test_orientation_in_xmp_is_applied():
    """As Pillow does, and behind other segments."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="6"/>'
    plain = encode(picture(), "JPEG", comment=b"a segment before it")
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2) + xmp
    at = plain.index(b"\xff\xdb")  # before the quantisation tables
    data = plain[:at] + segment + plain[at:]
    turned = opened(plain).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(decode_image(data, LIMITS), pixels(turned))


@pytest.mark.parametrize("by", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])  # the quick way, and Pillow's
def test_a_jpeg_is_decoded_smaller_where_that_will_do(by, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = picture().resize((203, 150), Image.Resampling.BICUBIC)
    data = encode(smooth, "JPEG", exif=exif, quality=95)
    asked = []

    def reduce(height, width):
        asked.append((height, width))
        return by

    image = decode_image(data, LIMITS, reduce=reduce)
    assert set(asked) == {(150, 203)}
    size = (-(-203 // by), -(-150 // by))
    turned = ImageOps.exif_transpose(opened(data))
    whole = turned.resize(size if orientation == 1 else size[::-1], Image.Resampling.BOX)
    assert image.shape == pixels(whole).shape
    assert np.abs(image.astype(int) - pixels(whole)).mean() < 6


def test_other_formats_keep_their_size():
    assert decode_image(encode(picture(), "PNG"), LIMITS, reduce=lambda *_: 8).shape == (30, 40, 3)


def test_damaged_exif_counts_as_none():
    exif = b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f" + bytes(range(40))
    data = encode(picture(), "JPEG", exif=exif)
    plain = encode(picture(), "JPEG")
    assert np.array_equal(decode_image(data, LIMITS), pixels(opened(plain)))


def test_16_bits_keep_the_high_byte():
    gray = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50
    image = decode_image(encode(Image.fromarray(gray), "PNG"), LIMITS)
    assert np.array_equal(image, np.repeat((gray >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_laid_over_white(mode):
    colour = picture("P" if mode == "P" else "RGBA")
    if mode == "P":
        data = encode(colour, "PNG", transparency=int(np.array(colour)[0, 0]))
    else:
        alpha = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (30, 20)))
        colour.putalpha(alpha)
        data = encode(colour.convert("LA") if mode == "LA" else colour, "PNG")
    expected = np.array(opened(data).convert("RGBA")).astype(int)
    expected[expected[..., 3] == 0] = 255
    image = decode_image(data, LIMITS)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(image, expected[..., :3])


def test_the_first_picture_of_a_multi_picture_jpeg():
    first, second = picture(), picture(size=(20, 20))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert opened(data).format == "MPO"
    assert np.array_equal(decode_image(data, LIMITS), pixels(opened(data)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_ends_early_is_corrupt(share, progressive):
    data = encode(picture(size=(200, 200)), "JPEG", progressive=progressive, quality=90)
    assert reason_of(data[: int(len(data) * share)]) == "corrupt"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "PPM"])
def test_other_formats_that_end_early_are_corrupt(format):
    data = encode(picture(size=(200, 200)), format)
    assert reason_of(data[: len(data) // 2]) == "corrupt"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM"])
def test_noise_after_any_magic_is_a_decode_error(format):
    rng = np.random.default_rng(0)
    head = encode(picture(), format)
    for keep in (4, 8, 16, 30, 60):
        data = head[:keep] + rng.bytes(500)
        fate = fate_of(data)
        assert fate in {"decoded", "corrupt", "unsupported", "too_large", "too_small"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encode(picture(), "TIFF"),
        encode(picture(), "ICO"),
        encode(picture(), "GIF", save_all=True, append_images=[picture(size=(40, 30)).rotate(9)]),
        encode(picture(), "WEBP", save_all=True, append_images=[picture().rotate(9)]),
        encode(picture(), "PNG", save_all=True, append_images=[picture().rotate(9)]),
    ],
    ids=["empty", "text", "svg", "tiff", "ico", "gif", "webp", "apng"],
)
def test_unsupported(data):
    assert reason_of(data) == "unsupported"


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (12_000, 9_000), (20_000, 20_000)])
def test_large_pictures_are_refused_from_the_header(width, height):
    # The last two would make Pillow warn and raise.
    assert reason_of(png(width, height)) == "too_large"


def test_small_pictures_are_refused():
    assert reason_of(jpeg_bytes(0, (7, 100))) == "too_small"
    assert decode_image(jpeg_bytes(0, (8, 100)), LIMITS).shape == (8, 100, 3)


def test_damaged_pictures_print_nothing(capfd):
    data = bytearray(jpeg_bytes(0, (200, 200)))
    data[len(data) // 2 : len(data) // 2 + 40] = np.random.default_rng(1).bytes(40)
    for damaged in (bytes(data), bytes(data[:-300]), bytes(data[:-300]) + b"\xff\xd9"):
        assert fate_of(damaged) in {"decoded", "corrupt"}
    assert capfd.readouterr() == ("", "")
