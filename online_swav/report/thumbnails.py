"""Small pictures inside the page, as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

THUMBNAIL_PX = 72
QUALITY = 74


def jpeg(picture: Image.Image, side: int) -> bytes:
    """The central square of a picture, `side` pixels wide, as a JPEG."""
    return _encode(ImageOps.fit(picture, (side, side), Image.Resampling.BILINEAR))


def jpeg_whole(pixels: npt.NDArray[np.uint8], side: int) -> bytes:
    """The whole picture, its longer side at most `side` pixels, as a JPEG."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    return _encode(picture)


def uri(data: bytes) -> str:
    """A JPEG as an address of its own."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
