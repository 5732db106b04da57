"""Image bytes to pixels: uint8 `[H, W, 3]`, or a `DecodeError` with a reason.

What a picture means:

- EXIF orientation is applied, as viewers do; unreadable EXIF counts as none.
- Grayscale and palette become RGB. CMYK and YCCK are converted as Pillow does.
- 16 bits per channel keep their high byte.
- Transparency is laid over white: colours under transparent pixels are arbitrary.
- Of a multi-picture JPEG (MPO, from phones) the first picture is used, as every viewer shows it.
  An animation has no one picture and is refused.
- A JPEG that ends early is refused. One whose coded bytes were altered in place decodes to wrong
  pixels, as in every libjpeg reader.

JPEGs are decoded by simplejpeg (libjpeg-turbo, as Pillow's own, with equal pixels, but without
Pillow's copies). Whatever it refuses or warns of goes to Pillow, whose verdict counts. Not
torchvision.io: it lets libjpeg print each damaged file on the process's stderr, which no handler
can redirect. Not OpenCV: it decodes damaged files without a word.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from streams.config import LimitsConfig
from streams.errors import DecodeError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8", b"P5", b"P6")
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG, _APP1, _SCAN = b"\xff\xd8\xff", 0xE1, 0xDA
_TURNS = (b"Exif\0\0", b"tiff:Orientation")  # in an APP1 segment: EXIF, or XMP
_PLAIN_JPEG = ("YCbCr", "Gray", "RGB")


Reduce = Callable[[int, int], int]
"""How much smaller a picture of so many rows and columns may be: by 1, 2, 4 or 8."""


def decode_image(
    data: bytes, limits: LimitsConfig, *, reduce: Reduce = lambda _height, _width: 1
) -> npt.NDArray[np.uint8]:
    """Decode one picture.

    Args:
        data: A JPEG, PNG, WebP, BMP, GIF or PPM; the bytes decide, not a name.
        limits: Caps, checked against the header before any pixel is decoded.
        reduce: Asked with the size in the header. A JPEG is then decoded so much smaller, which
            its coding allows at half the time; other formats are not.

    Returns:
        uint8 `[H, W, 3]`, RGB; sides of a reduced picture are rounded up.

    Raises:
        DecodeError: `unsupported`, `too_large`, `too_small` or `corrupt`.
    """
    with warnings.catch_warnings():
        # Pillow warns about large pictures and odd metadata; the caps are ours.
        warnings.simplefilter("ignore")
        pixels = _decode_plain_jpeg(data, limits, reduce) if data.startswith(_JPEG) else None
        if pixels is not None:
            return pixels
        image = _open(data)
        with image:
            try:
                _check(image, limits)
                by = reduce(image.height, image.width)
                if by > 1:
                    image.draft(None, (image.width // by, image.height // by))
                image.load()
                return _to_rgb(_upright(image))
            except (DecodeError, MemoryError):
                raise
            except Exception as error:
                # Pillow's decoders raise nearly any type on damaged bytes.
                raise DecodeError(f"the picture is damaged: {error}", reason="corrupt") from error


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An opened picture as uint8 `[H, W, 3]`, with the same meaning.

    Raises:
        DecodeError: If its values have no defined range (`unsupported`).
    """
    return _to_rgb(_upright(image))


def _decode_plain_jpeg(
    data: bytes, limits: LimitsConfig, reduce: Reduce
) -> npt.NDArray[np.uint8] | None:
    """The quick way, for upright JPEGs without fault; None leaves it to Pillow."""
    if _may_be_turned(data) and _turn(data) is not None:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _PLAIN_JPEG:
            return None
        _check_size(width, height, limits)
        by = reduce(height, width)
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // by), min_width=-(-width // by), min_factor=by
        )
    except (DecodeError, MemoryError):
        raise
    except Exception:  # damaged, or only odd: it raises KeyError for a rare subsampling
        return None
    return pixels


def _may_be_turned(jpeg: bytes) -> bool:
    """Whether a segment before the pixels may hold an orientation. Damage is left to others."""
    at = 2
    while jpeg[at : at + 1] == b"\xff" and at + 4 <= len(jpeg) and jpeg[at + 1] != _SCAN:
        if jpeg[at + 1] == 0xFF:  # markers may be filled up with any number of these
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] == _APP1 and any(mark in jpeg[at:end] for mark in _TURNS):
            return True
        at = end
    return False


def _turn(data: bytes) -> Image.Transpose | None:
    with _open(data) as image:
        return _orientation(image)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise DecodeError(str(error), reason="too_large") from error
    except UnidentifiedImageError as error:
        if data.startswith(_MAGIC):
            raise DecodeError("the picture's header is damaged", reason="corrupt") from error
        raise DecodeError(
            f"not a {', '.join(_FORMATS)}; begins with {data[:12]!r}", reason="unsupported"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(f"the picture's header is damaged: {error}", reason="corrupt") from error


def _check(image: Image.Image, limits: LimitsConfig) -> None:
    _check_size(*image.size, limits)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DecodeError("an animation has no one picture", reason="unsupported")


def _check_size(width: int, height: int, limits: LimitsConfig) -> None:
    if width * height > limits.max_pixels:
        raise DecodeError(
            f"{width} x {height} pixels, more than the cap of {limits.max_pixels}",
            reason="too_large",
        )
    if min(width, height) < limits.min_side:
        raise DecodeError(
            f"{width} x {height} pixels, a side is shorter than {limits.min_side}",
            reason="too_small",
        )


def _upright(image: Image.Image) -> Image.Image:
    turn = _orientation(image)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata of any kind; the picture itself is good
        return None


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit gray, as "I;16" or in 32 bits
        gray = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DecodeError("a picture of real numbers has no defined range", reason="unsupported")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        image = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        image.alpha_composite(colour)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image)
