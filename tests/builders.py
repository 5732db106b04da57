"""Tars, headers and pictures for tests, made in code: good ones, odd ones, hostile ones."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from streams.tar import BLOCK

TarItem = tuple[str, bytes] | tarfile.TarInfo
"""Name and data of a member, or a header without data."""


def tar_of(path: Path, members: Iterable[TarItem], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar of members, in order."""
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def header(name: str, kind: bytes, *, linkname: str = "/etc/passwd") -> tarfile.TarInfo:
    """A header without data: a link, a device, a folder."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def pax_member(records: bytes, name: str, data: bytes, *, kind: bytes = b"x") -> bytes:
    """A pax header that holds `records` as they are, and the member it belongs to."""
    extension = tarfile.TarInfo("PaxHeader")
    extension.type, extension.size = kind, len(records)
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return b"".join(
        part.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK)
        for part, content in ((extension, records), (info, data))
    )


def pax_record(key: str, value: bytes) -> bytes:
    """One record of a pax header: length, key, value."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def gnu_sparse(name: str, real_size: int) -> bytes:
    """A GNU sparse member whose 512 stored bytes claim to be `real_size`."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % BLOCK
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:410] = b"%011o\0" % (real_size - BLOCK) + b"%011o\0" % BLOCK
    block[483:495] = b"%011o\0" % real_size
    sign_header(block)
    return bytes(block) + b"x" * BLOCK


def sign_header(block: bytearray, at: int = 0) -> None:
    """Renew the checksum of the header at byte `at`."""
    block[at + 148 : at + 156] = b" " * 8
    block[at + 148 : at + 156] = b"%06o\0 " % sum(block[at : at + BLOCK])


def patch_header(path: Path, at: int, field: int, value: bytes) -> None:
    """Overwrite bytes of the header at byte `at` of a file, with a checksum that fits."""
    data = bytearray(path.read_bytes())
    data[at + field : at + field + len(value)] = value
    sign_header(data, at)
    path.write_bytes(data)


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A smooth random picture, `size` in pixels (width, height)."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes of a picture in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, pixels: bytes = zlib.compress(b""), *extra: bytes) -> bytes:
    """A PNG that promises `width` x `height` RGB pixels, whatever its data holds.

    Args:
        width: In pixels.
        height: In pixels.
        pixels: Content of its IDAT chunk.
        extra: Chunks before it, made by `png_chunk`.
    """
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    chunks = (start, *extra, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
