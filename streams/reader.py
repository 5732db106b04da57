"""One shard in, its samples out, in order and without silent loss.

A sample means what it means in webdataset: adjacent members with one key, which is the name up to
the first dot of its last part (`split_name`); suffixes in lower case. webdataset itself is not
imported here: it imports torch, half a gigabyte in every reader. Nor would its tar iteration do.
Tried with webdataset 1.0.2: it opens tars as `r|*`, so a gzip is inflated without limit and a
sparse member expanded; it reads every member whole before any cap can be applied; it ends in
silence at a cut or damaged header and hands out the half sample as whole.
So headers are walked by `streams.tar`, and only the bytes of images and labels are ever read.
Pickles and all other members are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from streams.config import LimitsConfig
from streams.errors import ShardError
from streams.shard import IndexRanges, Shard, from_ranges
from streams.storage import check_unchanged, open_shard
from streams.tar import BLOCK, Member, TarDamageError, walk

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "ppm", "gif"})
_MAX_LABEL_BYTES = 64
_MAX_LABELS_BYTES = 64 * 1024
_MAX_KEY_CHARACTERS = 255
_MAX_MEMBERS = 1000
_MAX_NAMES_CHARACTERS = 2**20
"""Of all names of one sample: its headers are held until it is whole."""
_NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")
_RESERVED = re.compile(r"__[^/]*__($|/)")
_LOOKS_LIKE = (
    (b"\x1f\x8b", "gzip data; unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it with unzstd"),
    (b"\xfd7zXZ", "xz data; unpack it with unxz"),
    (b"BZh", "bzip2 data; unpack it with bunzip2"),
    (b"PK\x03\x04", "a zip archive; pack its images with `online-swav pack`"),
    (b"<", "an HTML or XML page, perhaps the error page of a download"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """An intact sample, not yet decoded."""

    index: int
    """Position among the samples of the shard, from 0."""
    key: str
    """Printable form of its key, for people; the index is the identity."""
    suffix: str
    """Suffix of the image member, lower case."""
    image: bytes
    image_at: int
    """Byte of the tar at which the image begins."""
    label: int | None
    """From the member `.cls`, when there is one that parses."""
    labels: tuple[int, ...] | None = None
    """`{"labels": [...]}` of the member `.json`, if it was asked for and parses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedSample:
    """A sample that cannot be used."""

    index: int
    key: str
    reason: str
    """One of `streams.shard.DROP_REASONS`."""
    detail: str
    data: bytes | None
    """Image bytes worth keeping for a look, if any."""


class ShardReader:
    """Iterates the samples of one shard.

    Args:
        shard: What to read.
        limits: Caps, checked against headers before any data is read.
        skip: Indices to count but not to yield; only their headers are read.
        several_labels: Read the member `.json` too.

    Attributes, valid once the iteration has ended:
        num_samples: Samples seen, skipped and rejected ones included.
        fault: What is wrong with the tar, in words, or None for an intact one. Samples before
            the damage are whole; the one that was open there is rejected as `truncated`, since
            nothing proves that it had no further members.
        skipped_members: Members that belong to no sample: directories, links, devices, reserved
            names (`__x__`) and names without a dot.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        limits: LimitsConfig,
        skip: IndexRanges = (),
        several_labels: bool = False,
    ) -> None:
        self._shard = shard
        self._limits = limits
        self._several_labels = several_labels
        self._skip = from_ranges(skip)
        self.num_samples = 0
        self.fault: str | None = None
        self.skipped_members = 0

    def __iter__(self) -> Iterator[RawSample | RejectedSample]:
        """Samples in index order.

        Raises:
            ShardError: `missing`, `replaced` or `unreadable` as `open_shard`; `not_a_tar` if not
                even the first header can be read.
        """
        self.num_samples, self.fault, self.skipped_members = 0, None, 0
        with open_shard(self._shard) as file:
            try:
                yield from self._unchanged_samples(file)
            except OSError as error:
                raise ShardError(
                    f"reading {self._shard.url} failed: {error}",
                    url=self._shard.url, reason="unreadable",
                ) from error  # fmt: skip

    def _unchanged_samples(self, file: BinaryIO) -> Iterator[RawSample | RejectedSample]:
        """Ends at a change of the file: its walk went by headers that may be gone by now."""
        for sample in self._samples(file):
            if self._changed(file):
                text = "the shard changed while it was read, and this sample was open"
                yield RejectedSample(
                    index=sample.index, key=sample.key, reason="truncated", detail=text, data=None
                )
                return
            yield sample
        self._changed(file)

    def _changed(self, file: BinaryIO) -> bool:
        try:
            check_unchanged(file.fileno(), self._shard)
        except ShardError:
            self.fault = "changed while it was read"
            return True
        return False

    def _samples(self, file: BinaryIO) -> Iterator[RawSample | RejectedSample]:
        group: _Group | None = None
        seen, whole = 0, True
        try:
            for member in walk(file, self._shard.size_bytes):
                seen += 1
                key, suffix = _split(member)
                if key is None:
                    self.skipped_members += 1
                    continue
                if group is None or key != group.key:
                    if group is not None and group.index not in self._skip:
                        yield group.close(file, self._limits)
                    group = _Group(self.num_samples, key, self._several_labels)
                    self.num_samples += 1
                group.add(member, suffix)
        except TarDamageError as damage:
            if not seen:
                raise self._not_a_tar(file, damage) from damage
            self.fault, whole = str(damage), damage.after_end
        if group is None or group.index in self._skip:
            return
        if whole:
            try:
                yield group.close(file, self._limits)
                return
            except TarDamageError as damage:
                self.fault = str(damage)
        yield group.reject(
            "truncated", f"this sample was open when the tar broke off: {self.fault}"
        )

    def _not_a_tar(self, file: BinaryIO, fault: TarDamageError) -> ShardError:
        file.seek(0)
        start = file.read(BLOCK)
        looks = next(
            (text for magic, text in _LOOKS_LIKE if start.lstrip().startswith(magic)), None
        )
        if not start:
            text = "is empty"
        elif looks is not None:
            text = f"is not a tar but looks like {looks}"
        elif len(start) < BLOCK:
            text = f"is not a tar: {len(start)} bytes are less than one header"
        else:
            text = f"is not a tar: {fault}"
        return ShardError(f"{self._shard.url} {text}", url=self._shard.url, reason="not_a_tar")


@dataclass(slots=True)
class _Group:
    """Members of one sample. Nothing is read until the group is known to be whole."""

    index: int
    key: str
    several_labels: bool
    members: dict[str, Member] = field(default_factory=dict)
    names_characters: int = 0
    repeated: str | None = None
    crowded: bool = False

    def add(self, member: Member, suffix: str) -> None:
        self.names_characters += len(member.name)
        if len(self.members) >= _MAX_MEMBERS or self.names_characters > _MAX_NAMES_CHARACTERS:
            self.crowded = True
        elif suffix in self.members:
            self.repeated = suffix
        else:
            self.members[suffix] = member

    def close(self, file: BinaryIO, limits: LimitsConfig) -> RawSample | RejectedSample:
        """Choose the image member, check it against the caps, read it."""
        if self.crowded:
            return self.reject(
                "too_large",
                f"more than {_MAX_MEMBERS} members, or {_MAX_NAMES_CHARACTERS} characters in names",
            )
        suffixes = [s for s in self.members if s.rpartition(".")[2] in IMAGE_SUFFIXES]
        # `x.jpg` beside `x.mask.png`: the field with the plain suffix is the picture.
        suffixes = [s for s in suffixes if "." not in s] or suffixes
        if not suffixes:
            found = ", ".join(f".{_printable(s)}" for s in [*self.members][:8])
            more = len(self.members) - 8
            text = f"no image among its members {found}" + (f" and {more} more" * (more > 0))
            return self.reject("no_image", text)
        image = self.members[suffixes[0]]
        readable = not image.is_sparse and image.size <= limits.max_member_bytes
        if self.repeated is not None or len(suffixes) > 1:
            data = _read(file, image) if readable else None
            return self.reject("ambiguous", self._explain(suffixes), data)
        if image.is_sparse:
            return self.reject("unsupported", "the image is a sparse member")
        if not readable:
            cap = limits.max_member_bytes
            return self.reject("too_large", f"{image.size} bytes, more than the cap of {cap}")
        if image.size == 0:
            return self.reject("corrupt", "the image has no bytes")
        return RawSample(
            index=self.index,
            key=_printable(self.key),
            suffix=suffixes[0],
            image=_read(file, image),
            image_at=image.data_at,
            label=_label(file, self.members.get("cls")),
            labels=_labels(file, self.members.get("json")) if self.several_labels else None,
        )

    def reject(self, reason: str, detail: str, data: bytes | None = None) -> RejectedSample:
        return RejectedSample(
            index=self.index, key=_printable(self.key), reason=reason, detail=detail, data=data
        )

    def _explain(self, suffixes: list[str]) -> str:
        if self.repeated is not None:
            return f"two adjacent members are .{_printable(self.repeated)} (case is ignored)"
        names = " and ".join(f".{_printable(s)}" for s in suffixes)
        text = f"image members {names} of one sample"
        if any("." in s for s in suffixes):
            text += "; a key ends at its first dot, so names of pictures must hold only one"
        return text


def split_name(name: str) -> tuple[str, str] | tuple[None, None]:
    """Key and suffix of a member's name, as `webdataset.tariterators.base_plus_ext`."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else (None, None)


def _split(member: Member) -> tuple[str, str] | tuple[None, str]:
    """Key and suffix of a member, as webdataset has them; no key for what it passes over."""
    if not member.is_file or _RESERVED.match(member.name):
        return None, ""
    key, suffix = split_name(member.name)
    return (None, "") if key is None or suffix is None else (key, suffix.lower())


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.data_at)
    data = file.read(member.size)
    if len(data) < member.size:
        raise TarDamageError(
            f"became shorter while it was read, at byte {member.data_at + len(data)}"
        )
    return data


def _label(file: BinaryIO, member: Member | None) -> int | None:
    if member is None or member.is_sparse or member.size > _MAX_LABEL_BYTES:
        return None
    try:
        label = int(_read(file, member))
    except ValueError:
        return None
    return label if 0 <= label < 2**31 else None


def _labels(file: BinaryIO, member: Member | None) -> tuple[int, ...] | None:
    if member is None or member.is_sparse or member.size > _MAX_LABELS_BYTES:
        return None
    try:
        labels = json.loads(_read(file, member))["labels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    known = isinstance(labels, list) and all(type(x) is int and 0 <= x < 2**31 for x in labels)
    return tuple(sorted(set(labels))) if known else None


def _printable(name: str) -> str:
    """Lone surrogates (bytes that are no UTF-8) would break JSON and logs later."""
    return name.encode("utf-8", "backslashreplace").decode()[:_MAX_KEY_CHARACTERS]
