"""Writes shards: whole or not at all, the same bytes for the same input, readable by webdataset.

A shard is written under a hidden name, flushed to disk, and renamed. Its sidecar manifest
`<name>.tar.json` is renamed into place just before it: a source takes a tar with a manifest only
when the sizes agree, so neither order nor a crash between the two can show half a shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypedDict

from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import DecodeError
from streams.reader import IMAGE_SUFFIXES, split_name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FORMAT = 1
Sample = tuple[str, dict[str, bytes]]
"""Key, and the bytes of each member by suffix."""


class Manifest(TypedDict):
    """What the sidecar says of a shard."""

    format: int
    samples: int
    size_bytes: int
    sha256: str
    labels: bool
    """Every sample has a `.cls` member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReport:
    """What became of a folder of images."""

    shards: tuple[Path, ...]
    samples: int
    classes: tuple[str, ...]
    """Class names; the position is the label. Empty for images without classes."""
    rejected: tuple[tuple[str, str], ...]
    """Files that were left out: path below the folder, and why."""

    def __str__(self) -> str:
        lines = [f"{self.samples} images in {len(self.shards)} shards in {self.shards[0].parent}"]
        if self.classes:
            lines.append(f"{len(self.classes)} classes: see classes.json there")
        if self.rejected:
            lines.append(f"{len(self.rejected)} files left out:")
            lines.extend(f"  {name}: {reason}" for name, reason in self.rejected)
        return "\n".join(lines)


def write_shard(path: Path, samples: Iterable[Sample]) -> Manifest:
    """Write one shard and its manifest.

    Raises:
        FileExistsError: If the shard is there already.
        ValueError: If there is no sample, or webdataset would not read a sample back as given.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; shards are never overwritten")
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with hidden.open("wb") as file:
            sink = _Hashing(file)
            keys, labelled = _write_members(sink, samples)
            if not keys:
                raise ValueError(f"{path}: a shard needs at least one sample")
            file.flush()
            os.fsync(file.fileno())
        manifest = Manifest(
            format=FORMAT, samples=keys, size_bytes=sink.size, sha256=sink.sha256.hexdigest(),
            labels=labelled == keys,
        )  # fmt: skip
        write_json(path.with_name(f"{path.name}.json"), manifest)
        if path.exists():
            raise FileExistsError(f"{path} was written by someone else meanwhile")
        hidden.replace(path)
        _sync_folder(path.parent)
    finally:
        hidden.unlink(missing_ok=True)
    return manifest


def pack_folder(
    images: Path,
    out: Path,
    *,
    samples_per_shard: int = 1000,
    prefix: str = "shard",
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> PackReport:
    """Pack the images below a folder into shards, in an order shuffled by `seed`.

    Bytes are copied unchanged. Each image is decoded once as a test; what fails is reported. Where
    images lie in subfolders, the first folder below `images` is the class.

    Args:
        images: Searched to any depth.
        out: Made if missing. Also receives `classes.json`, which maps label to class name.
        samples_per_shard: Images in each shard but the last.
        prefix: Shards are named `<prefix>-000000.tar` and so on.
        seed: Of the shuffling.
        classes: Class names in the order of their labels; by default the sorted subfolders.

    Raises:
        ValueError: If there is no usable image, `out` has shards of this prefix, a class is
            unknown, or an argument is out of range.
        FileNotFoundError: If `images` is no folder.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", prefix):
        raise ValueError(
            f"prefix {prefix!r} must begin with a letter or digit and hold no others but . _ -"
        )
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is not a folder")
    if next(out.glob(f"{prefix}-*.tar"), None) is not None:
        raise ValueError(f"{out} already has shards named {prefix}-*.tar; choose another --prefix")
    files = sorted(path for path in images.rglob("*") if path.is_file())
    pictures = [path for path in files if _left_out(path, images) is None]
    looked_for = ", ".join(f".{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
    if not pictures:
        raise ValueError(f"no image in {images}: looked for {looked_for} at any depth")
    names = {_class_of(path, images) for path in pictures} - {None}
    ordered = tuple(sorted(name for name in names if name)) if classes is None else tuple(classes)
    unknown = sorted(name for name in names if name and name not in ordered)
    if unknown:
        raise ValueError(f"folder {unknown[0]!r} is not among the classes {', '.join(ordered)}")
    rejected = [
        (str(path.relative_to(images)), reason)
        for path in files
        if (reason := _left_out(path, images)) is not None
    ]
    random.Random(seed).shuffle(pictures)
    out.mkdir(parents=True, exist_ok=True)
    samples = _usable(pictures, images, ordered, rejected)
    shards: list[Path] = []
    total = 0
    while (first := next(samples, None)) is not None:
        path = out / f"{prefix}-{len(shards):06d}.tar"
        shard = chain([first], islice(samples, samples_per_shard - 1))
        total += write_shard(path, shard)["samples"]
        shards.append(path)
    if not shards:
        raise ValueError(f"none of the {len(pictures)} images in {images} is usable; "
                         f"{rejected[-1][0]}: {rejected[-1][1]}")  # fmt: skip
    if ordered:
        write_json(out / "classes.json", dict(enumerate(ordered)))
    return PackReport(
        shards=tuple(shards), samples=total, classes=ordered, rejected=tuple(sorted(rejected))
    )


def write_json(path: Path, value: object) -> None:
    """Write a small JSON file, whole or not at all."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with hidden.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    hidden.replace(path)


def _usable(
    pictures: list[Path], root: Path, classes: tuple[str, ...], rejected: list[tuple[str, str]]
) -> Iterator[Sample]:
    """Samples of the files that decode; the others are added to `rejected`."""
    limits = LimitsConfig()
    number = 0
    for path in pictures:
        name = str(path.relative_to(root))
        try:
            data = path.read_bytes()
            if len(data) > limits.max_member_bytes:
                raise DecodeError(
                    f"{len(data)} bytes, more than the cap of {limits.max_member_bytes}",
                    reason="too_large",
                )
            decode_image(data, limits)
        except OSError as error:
            rejected.append((name, f"unreadable: {error.strerror}"))
            continue
        except DecodeError as error:
            rejected.append((name, f"{error.reason}: {error}"))
            continue
        members = {_suffix(path): data}
        label = _class_of(path, root)
        if label is not None:
            members["cls"] = str(classes.index(label)).encode()
        yield f"{number:09d}", members
        number += 1


def _left_out(path: Path, root: Path) -> str | None:
    """Why a file is no candidate by its name, or None."""
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return "hidden"
    return None if _suffix(path) in IMAGE_SUFFIXES else "its suffix is not that of an image"


def _class_of(path: Path, root: Path) -> str | None:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _suffix(path: Path) -> str:
    return path.suffix[1:].lower()


def _write_members(sink: _Hashing, samples: Iterable[Sample]) -> tuple[int, int]:
    """Returns the number of samples and of those with a label."""
    keys: set[str] = set()
    labelled = 0
    # Pax headers appear only for names that ustar cannot hold.
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            _check_sample(key, members, keys)
            keys.add(key)
            labelled += "cls" in members
            for suffix, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{key}.{suffix}")  # mtime, uid and gid are 0
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return len(keys), labelled


def _check_sample(key: str, members: dict[str, bytes], keys: set[str]) -> None:
    if key in keys:
        raise ValueError(f"key {key!r} appears twice in one shard")
    if not members:
        raise ValueError(f"sample {key!r} has no members")
    odd_parts = {"", ".", ".."}.intersection(key.split("/"))
    if odd_parts or key.startswith("_") or not key.isprintable():
        raise ValueError(f"key {key!r} must be a plain relative name that begins with no _")
    for suffix in members:
        lower = suffix == suffix.lower() and not suffix.startswith("__")
        if not lower or split_name(f"{key}.{suffix}") != (key, suffix):
            raise ValueError(
                f"webdataset would not read {key!r} with suffix {suffix!r} back: no dot may be in "
                "the last part of a key, no slash or capital in a suffix"
            )


class _Hashing(io.RawIOBase):
    """Counts and hashes what passes through to a file."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Buffer) -> int:
        self.sha256.update(data)
        written = self._file.write(data)
        self.size += written
        return written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
