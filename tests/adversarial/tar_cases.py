"""Tars that are cut, damaged, no tars, or hostile in their headers."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

from streams.tar import BLOCK
from streams.testing import jpeg_bytes, truncate
from tests.adversarial.case import Case
from tests.builders import gnu_sparse, patch_header, pax_member, pax_record, tar_of

JPEG = jpeg_bytes(0)
PADDED = -(-len(JPEG) // BLOCK) * BLOCK
SECOND = BLOCK + PADDED
"""Byte of the second header in a tar of JPEGs."""
END = 3 * SECOND
"""Byte of the closing blocks of a tar of three."""
_MIB = 2**20


def three(folder: Path) -> Path:
    """`a.tar`: three samples of one JPEG each."""
    return tar_of(folder / "a.tar", [(f"{key}.jpg", JPEG) for key in "abc"])


def cut(at: int) -> Callable[[Path], Path]:
    """`three`, cut at byte `at`."""
    return lambda folder: truncate(three(folder), at)


def whole(data: bytes) -> Callable[[Path], int]:
    """`a.tar` of these bytes."""
    return lambda folder: (folder / "a.tar").write_bytes(data)


def _cut_in_pax(folder: Path) -> Path:
    names = ("a.jpg", "é" * 200 + ".jpg")
    path = tar_of(folder / "a.tar", [(name, JPEG) for name in names], format=tarfile.PAX_FORMAT)
    return truncate(path, SECOND + BLOCK + 100)


def _flipped(folder: Path) -> None:
    path = three(folder)
    data = bytearray(path.read_bytes())
    data[SECOND + 3] ^= 0xFF
    path.write_bytes(data)


def _claims(value: bytes, kind: bytes = b"0") -> Callable[[Path], None]:
    """The header of the second sample has another type and size, and a checksum that fits."""

    def write(folder: Path) -> None:
        path = three(folder)
        patch_header(path, SECOND, 156, kind)
        patch_header(path, SECOND, 124, value)

    return write


def _joined(folder: Path) -> None:
    path = three(folder)
    path.write_bytes(path.read_bytes() * 2)


def _before(data: bytes) -> Callable[[Path], None]:
    """A tar of `data`, then the three samples."""

    def write(folder: Path) -> None:
        path = three(folder)
        path.write_bytes(data + path.read_bytes())

    return write


def _pax_flood(folder: Path) -> None:
    """A hundred extension headers before one member, each with a megabyte nobody asked for."""
    path = three(folder)
    with path.open("rb+") as file:
        rest = file.read()
        file.seek(0)
        for i in range(100):
            records = pax_record(f"comment.{i}", b"x" * (_MIB - 100))
            file.write(pax_member(records, "", b"", kind=b"g")[: BLOCK + _MIB])
        file.write(rest)


CASES = [
    Case(
        name="cut in the data", what="the tar ends inside the second image",
        write=cut(SECOND + BLOCK + 100), accepted=1, dropped={"truncated": 1},
        faults=("inside a member",),
        note="how many samples lie behind a cut is unknown, so they are not counted",
    ),
    Case(
        name="cut at a header", what="the tar ends where the third header should begin",
        write=cut(2 * SECOND), accepted=1, dropped={"truncated": 1},
        faults=("without the closing blocks",),
        note="nothing proves that the second sample had no further members",
    ),
    Case(
        name="cut in a header", what="the tar ends inside the third header",
        write=cut(2 * SECOND + 200), accepted=1, dropped={"truncated": 1},
        faults=("inside a header",),
    ),
    Case(
        name="cut in the pax header", what="the tar ends inside an extension that holds a name",
        write=_cut_in_pax, accepted=0, dropped={"truncated": 1}, faults=("inside a header",),
    ),
    Case(
        name="cut in the trailing zeros", what="one closing block and a half are there",
        write=cut(END + BLOCK + 256), accepted=3,
    ),
    Case(
        name="no closing blocks", what="every member is whole, only the end mark is missing",
        write=cut(END), accepted=2, dropped={"truncated": 1},
        faults=("without the closing blocks",),
    ),
    Case(
        name="flipped bits in a header", what="the checksum of the second header does not fit",
        write=_flipped, accepted=0, dropped={"truncated": 1}, faults=("is damaged (bad checksum)",),
        note="what follows a damaged header is not guessed at",
    ),
    Case(
        name="empty file", what="no bytes at all, called `.tar`",
        write=whole(b""), accepted=0, done=0, quarantined=1, faults=("is empty",),
    ),
    Case(
        name="HTML page", what="the error page of a download, saved as a tar",
        write=whole(b"<!doctype html><title>404 Not Found</title>" * 50), accepted=0, done=0,
        quarantined=1, faults=("looks like an HTML or XML page",),
    ),
    Case(
        name="gzip called .tar", what="a compressed tar that would inflate to 200 MB",
        write=whole(gzip.compress(bytes(10 * _MIB)) * 20), accepted=0, done=0, quarantined=1,
        faults=("looks like gzip data; unpack it with gunzip",),
    ),
    Case(
        name="zstd called .tar", what="a compressed tar",
        write=whole(b"\x28\xb5\x2f\xfd" + bytes(2000)), accepted=0, done=0, quarantined=1,
        faults=("looks like zstd data; unpack it with unzstd",),
    ),
    Case(
        name="two tars joined", what="`cat a.tar b.tar`: members follow the closing blocks",
        write=_joined, accepted=3, faults=("data after the closing blocks",),
        note="no tar reader sees what follows; it is never trained",
    ),
    Case(
        name="GNU sparse bomb", what="a member of 512 bytes that claims to unpack to 7 GB",
        write=_before(gnu_sparse("z.jpg", 7 * 10**9)), accepted=3, dropped={"unsupported": 1},
    ),
    Case(
        name="size beyond the end", what="a header that promises 8 GB in a small tar",
        write=_claims(b"77777777777\0"), accepted=1, dropped={"truncated": 1},
        faults=("inside a member",),
    ),
    Case(
        name="negative size", what="a header whose size is below zero",
        write=_claims(b"\xff" * 12), accepted=0, dropped={"truncated": 1},
        faults=("a negative size",),
    ),
    Case(
        name="endless extension", what="a pax header that claims to hold a gigabyte",
        write=_claims(b"%011o\0" % 10**9, b"x"), accepted=0, dropped={"truncated": 1},
        faults=("claims an extension of 1000000000 bytes",),
    ),
    Case(
        name="flood of extensions", what="a hundred pax headers of a megabyte before one member",
        write=_pax_flood, accepted=3,
    ),
    Case(
        name="no samples", what="a tar of closing blocks alone",
        write=lambda folder: tar_of(folder / "a.tar", []), accepted=0,
    ),
    Case(
        name="one sample", what="a tar of one image",
        write=lambda folder: tar_of(folder / "a.tar", [("a.jpg", JPEG)]), accepted=1,
    ),
]  # fmt: skip
