"""Walks the headers of an uncompressed tar and notices where it is damaged.

`tarfile` (and so webdataset) stops without a word at the first header it cannot parse, reads
extension headers of any size into memory, and expands sparse members. This walk parses each block
with `tarfile.TarInfo.frombuf`, so names, sizes and checksums mean what they mean there, but
every stop other than the closing zero blocks raises `TarDamageError`. Knows ustar, pax and GNU.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from streams.errors import StreamError

BLOCK = 512
_ZERO = bytes(BLOCK)
_MAX_EXTENSION_BYTES = 2**20
"""Cap on one pax or GNU extension header: it carries a name, so a megabyte is an attack."""
_PAX_KEYS = (b"path", b"size", b"GNU.sparse.name")
_SPARSE = "GNU.sparse."
"""Stands for any other record whose key begins so."""
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_GNU_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class TarDamageError(StreamError):
    """The walk cannot go on; the text says at which byte and why. The reader catches it.

    `after_end` tells that the closing blocks were seen, so that all members before are whole.
    """

    def __init__(self, message: str, *, after_end: bool = False) -> None:
        super().__init__(message)
        self.after_end = after_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a tar. Its data may reach beyond the end of a truncated file."""

    name: str
    """Opaque: may hold surrogates, `..`, or a leading slash. Never use it as a path."""
    data_at: int
    """Byte offset of its data."""
    size: int
    """Bytes of data stored in the tar."""
    is_file: bool
    """A regular file (not a directory, link or device)."""
    is_sparse: bool
    """Its stored bytes are not its contents."""


def walk(file: BinaryIO, size_bytes: int) -> Iterator[Member]:
    """Members in order, reading headers only. Returns normally at the closing zero blocks.

    Args:
        file: The tar; the walk seeks, so the caller may seek too between two members.
        size_bytes: Length of the file.

    Raises:
        TarDamageError: At a cut, a damaged header, or bytes after the closing blocks.
    """
    at = 0
    defaults: dict[str, str] = {}
    while True:
        start = at
        records = dict(defaults)
        while True:
            block = _read(file, at, BLOCK, size_bytes)
            if block == _ZERO:
                if at != start:
                    raise TarDamageError(
                        f"the header at byte {start} is not followed by its member"
                    )
                _require_zeros(file, at, size_bytes)
                return
            info = _parse(block, at, size_bytes)
            at += BLOCK
            if info.type not in _PAX and info.type not in _GNU_LONG:
                break
            payload = _read_extension(file, at, info.size, size_bytes)
            at += _padded(info.size)
            if info.type == tarfile.XGLTYPE:
                defaults.update(_pax_records(payload, start))
                records = {**defaults, **records}
            elif info.type in _PAX:
                records.update(_pax_records(payload, start))
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = payload.split(b"\0", 1)[0]
                records["path"] = name.decode("utf-8", "surrogateescape")
        if info.type == tarfile.GNUTYPE_SPARSE:
            extended = bool(block[482])
            while extended:  # further maps of an old GNU sparse member precede its data
                extended = bool(_read(file, at, BLOCK, size_bytes)[504])
                at += BLOCK
        member = _member(info, records, at, start)
        # Directories, links and devices have no data whatever their size says; types that nobody
        # knows do (both as in tarfile).
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        if has_data:
            at += _padded(member.size)
        yield member
        if has_data and member.data_at + member.size > size_bytes:
            raise TarDamageError(
                f"ends at byte {size_bytes}, inside a member that reaches to byte "
                f"{member.data_at + member.size}"
            )


def _member(info: tarfile.TarInfo, records: dict[str, str], data_at: int, start: int) -> Member:
    size = info.size
    if "size" in records:
        try:
            size = int(records["size"])
        except ValueError as error:
            raise TarDamageError(f"the pax header at byte {start} has no valid size") from error
    if size < 0:
        raise TarDamageError(f"the header at byte {start} has a negative size")
    name = records.get("GNU.sparse.name", records.get("path", info.name))
    return Member(
        name=name,
        data_at=data_at,
        size=size,
        is_file=info.type in _FILE or info.type == tarfile.GNUTYPE_SPARSE,
        is_sparse=info.type == tarfile.GNUTYPE_SPARSE
        or _SPARSE in records
        or "GNU.sparse.name" in records,
    )


def _parse(block: bytes, at: int, size_bytes: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise TarDamageError(
            f"the header at byte {at} is damaged ({error}); "
            f"the last {size_bytes - at} bytes are not read"
        ) from error
    if info.size < 0:
        raise TarDamageError(f"the header at byte {at} has a negative size")
    return info


def _read(file: BinaryIO, at: int, size: int, size_bytes: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if len(data) < size:
        where = "inside a header" if data or at < size_bytes else "without the closing blocks"
        raise TarDamageError(f"ends at byte {size_bytes}, {where}")
    return data


def _read_extension(file: BinaryIO, at: int, size: int, size_bytes: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise TarDamageError(f"the header before byte {at} claims an extension of {size} bytes")
    return _read(file, at, size, size_bytes)


def _pax_records(payload: bytes, start: int) -> dict[str, str]:
    """Those records that matter here, of the form `length key=value newline`.

    Only they are kept: a tar may hold any number of headers with any number of other keys.
    """
    records = {}
    position = 0
    while position < len(payload):
        digits, space, _ = payload[position : position + 20].partition(b" ")
        end = position + int(digits) if space and digits.isdigit() else 0
        key, equals, value = payload[position + len(digits) + 1 : end].partition(b"=")
        if end > len(payload) or not equals or not value.endswith(b"\n"):
            raise TarDamageError(f"the pax header at byte {start} is damaged")
        if key in _PAX_KEYS:
            records[key.decode()] = value[:-1].decode("utf-8", "surrogateescape")
        elif key.startswith(b"GNU.sparse."):
            records[_SPARSE] = ""
        position = end
    return records


def _require_zeros(file: BinaryIO, at: int, size_bytes: int) -> None:
    """Nothing may follow the closing blocks: no reader of tars would ever see it."""
    file.seek(at)
    position = at
    while chunk := file.read(2**20):
        if chunk.count(0) != len(chunk):
            raise TarDamageError(
                f"has data after the closing blocks at byte {position}, {size_bytes - at} bytes "
                "that no tar reader sees; were two tars joined?",
                after_end=True,
            )
        position += len(chunk)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
