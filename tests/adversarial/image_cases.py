"""Pictures: odd but good ones, damaged ones, bombs."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from streams.testing import jpeg_bytes
from tests.adversarial.case import Case
from tests.adversarial.tar_cases import JPEG
from tests.builders import encode, picture, png, png_chunk, tar_of

_MIB = 2**20
_LARGE = picture(size=(200, 200))
_TWO = {"save_all": True, "append_images": [picture().rotate(9)]}


def good(name: str, what: str, data: bytes, *, suffix: str = "jpg", note: str = "") -> Case:
    """A picture that is taken."""
    return Case(name=name, what=what, write=_beside(suffix, lambda: data), accepted=2, note=note)


def bad(
    name: str, what: str, data: bytes | Callable[[], bytes], reason: str, *, suffix: str = "jpg"
) -> Case:
    """A picture that is dropped; the one after it is taken."""
    made = data if callable(data) else lambda: data
    return Case(name=name, what=what, write=_beside(suffix, made), accepted=1, dropped={reason: 1})


def _beside(suffix: str, data: Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda folder: tar_of(folder / "a.tar", [(f"a.{suffix}", data()), ("b.jpg", JPEG)])


def _zeros(size: int) -> bytes:
    """Deflated zeros, a thousandth of `size` bytes."""
    deflate = zlib.compressobj(1)
    chunks = [deflate.compress(bytes(_MIB)) for _ in range(size // _MIB)]
    return b"".join([*chunks, deflate.compress(bytes(size % _MIB)), deflate.flush()])


def _text_bomb() -> bytes:
    text = png_chunk(b"zTXt", b"Comment\0\0" + _zeros(128 * _MIB))
    return png(16, 16, zlib.compress(bytes(16 * 49)), text)


def _altered() -> bytes:
    data = bytearray(encode(_LARGE, "JPEG", quality=90))
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(reversed(data[middle : middle + 8]))
    return bytes(data)


def _many_large(folder: Path) -> None:
    """Small pictures padded to 4 MiB each."""
    members = ((f"{i}.jpg", jpeg_bytes(i).ljust(4 * _MIB, b"\0")) for i in range(40))
    tar_of(folder / "a.tar", members)


def _oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(), "JPEG", exif=exif)


_GRAY16 = Image.fromarray(np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50)

CASES = [
    bad("zero bytes", "an image member without data", b"", "corrupt"),
    bad("text", "words called `.jpg`", b"hello, world", "unsupported"),
    bad("SVG", "a drawing called `.jpg`", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "unsupported"),
    bad("TIFF of two pages", "called `.jpg`", encode(picture(), "TIFF", **_TWO), "unsupported"),
    bad("TIFF by name", "a member `.tif`, which is no image suffix", encode(picture(), "TIFF"),
        "no_image", suffix="tif"),
    bad("animated GIF", "two frames", encode(picture(), "GIF", **_TWO), "unsupported",
        suffix="gif"),
    bad("animated WebP", "two frames", encode(picture(), "WEBP", **_TWO), "unsupported",
        suffix="webp"),
    bad("truncated JPEG", "half of its bytes",
        encode(_LARGE, "JPEG")[: len(encode(_LARGE, "JPEG")) // 2], "corrupt"),
    bad("truncated PNG", "half of its bytes",
        encode(_LARGE, "PNG")[: len(encode(_LARGE, "PNG")) // 2], "corrupt", suffix="png"),
    bad("noise after the magic", "a JPEG's first bytes, then noise",
        b"\xff\xd8\xff\xe0" + np.random.default_rng(0).bytes(900), "corrupt"),
    good("altered JPEG", "coded bytes changed in place, which no JPEG reader can notice",
         _altered(), note="its pixels are wrong"),
    good("CMYK JPEG", "four channels of ink", encode(picture("CMYK"), "JPEG")),
    good("16-bit PNG", "gray of 65,536 levels", encode(_GRAY16, "PNG"), suffix="png"),
    good("palette PNG", "256 colours and a transparent one",
         encode(picture("P"), "PNG", transparency=0), suffix="png"),
    good("rotated by EXIF", "a JPEG that asks to be turned", _oriented(), note="it is turned"),
    good("still GIF", "one frame", encode(picture(), "GIF"), suffix="gif"),
    good("JPEG called .png", "the bytes decide, not the name", JPEG, suffix="png"),
    bad("gzip called .jpg", "a member that would inflate to 200 MB",
        lambda: gzip.compress(bytes(10 * _MIB)) * 20, "unsupported"),
    bad("160 megapixels", "a PNG of 0.5 MB that would unpack to 480 MB",
        lambda: png(16_000, 10_000, _zeros(10_000 * 48_001)), "too_large", suffix="png"),
    bad("PNG text bomb", "a comment that would inflate to 128 MB", _text_bomb, "corrupt",
        suffix="png"),
    good("pixels at the cap", "exactly as many pixels as the cap",
         png(1000, 1000, _zeros(1000 * 3001)), suffix="png"),
    bad("pixels above the cap", "one row more than the cap",
        png(1000, 1001, _zeros(1001 * 3001)), "too_large", suffix="png"),
    bad("bytes above the cap", "a member larger than the cap on members",
        lambda: JPEG.ljust(8 * _MIB + 1, b"\0"), "too_large"),
    bad("too small", "a side of seven pixels", jpeg_bytes(0, (7, 100)), "too_small"),
    Case(
        name="large members", what="40 images padded to 4 MiB each, more than the window may hold",
        write=_many_large, accepted=40, note="they are shuffled in smaller windows",
    ),
]  # fmt: skip
