"""Where labelled images are: in shards, or in an image folder whose subfolders are the classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from online_swav.errors import ConfigError
from streams.config import LimitsConfig
from streams.errors import DecodeError, StreamError
from streams.reader import IMAGE_SUFFIXES, RawSample, ShardReader
from streams.shard import Shard
from streams.sources import DirectorySource, describe_missing
from streams.storage import fingerprint

_LOOKED_FOR = ", ".join(f".{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
_MAX_CLASSES = 1_000_000
"""A larger label is no class but a number of something else; a table of it would fill a memory."""
_Labelled = tuple["Place", tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one image are."""

    path: str
    """Of the tar, or of the image."""
    fingerprint: str
    """Of that file, when it was found."""
    at: int
    """First byte of the image in it."""
    size: int
    """Bytes of the image."""
    name: str
    """Of the image, as lists of images have it: its key in the tar, or its path."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            DecodeError: If the file is gone, or is another one by now.
        """
        try:
            with Path(self.path).open("rb", buffering=0) as file:
                now = fingerprint(os.fstat(file.fileno()))
                data = os.pread(file.fileno(), self.size, self.at)
        except OSError as error:
            raise DecodeError(f"{self.path}: {error.strerror}", reason="corrupt") from error
        if now != self.fingerprint:
            raise DecodeError(f"{self.path} changed since it was listed", reason="corrupt")
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Labelled images that were found, not yet decoded."""

    places: tuple[Place, ...]
    labels: tuple[tuple[int, ...], ...]
    """Of each place; exactly one unless `multi_label`."""
    multi_label: bool
    class_names: tuple[str, ...]
    """By label; empty where only numbers are known."""


def find(
    places: Sequence[str],
    *,
    limit: int | None,
    class_names: Sequence[str] | None,
    limits: LimitsConfig,
) -> Found:
    """The labelled images at some places; see `data.labelled_images`.

    Raises:
        ConfigError: If there are none, or they have no labels.
    """
    if not places:
        raise ConfigError("no place was given; name shards (tars, a glob) or an image folder")
    folders = [text for text in places if _is_image_folder(Path(text))]
    if not folders:
        return _in_shards(places, limit=limit, limits=limits)
    if len(places) > 1:
        raise ConfigError(
            f"{folders[0]} holds no shards; beside other places only shards can be given "
            "(`online-swav pack` makes them of an image folder)"
        )
    return _in_folder(Path(folders[0]), limit=limit, class_names=class_names)


def _is_image_folder(folder: Path) -> bool:
    """A folder without any tar."""
    return folder.is_dir() and next(folder.rglob("*.tar"), None) is None


def _in_folder(folder: Path, *, limit: int | None, class_names: Sequence[str] | None) -> Found:
    by_class: dict[str, list[Path]] = {}
    loose = False
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix[1:].lower() not in IMAGE_SUFFIXES or any(p.startswith(".") for p in parts):
            continue
        if len(parts) == 1:
            loose = True
        elif path.is_file():
            by_class.setdefault(parts[0], []).append(path)
    if not by_class and loose:
        raise ConfigError(
            f"{folder} has images and no labels: put the images of each class into a folder of "
            f"its own, as {folder}/CLASS/NAME.jpg"
        )
    if not by_class:
        raise ConfigError(
            f"{folder} holds neither shards (.tar) nor images (looked for {_LOOKED_FOR}, at any "
            "depth)"
        )
    names = tuple(sorted(by_class)) if class_names is None else tuple(class_names)
    unknown = sorted(set(by_class) - set(names))
    if unknown:
        raise ConfigError(
            f"the classes differ: {folder} has {len(by_class)} and the training side "
            f"{len(names)}; the training side has no folder {', '.join(unknown[:5])}"
            + ", ..."
            * (len(unknown) > 5)
        )
    # By turns, so that a limit takes equal shares of the classes.
    turns = zip_longest(*([(path, name) for path in by_class[name]] for name in sorted(by_class)))
    pairs = (pair for turn in turns for pair in turn if pair is not None)
    number = {name: label for label, name in enumerate(names)}
    places: list[Place] = []
    labels: list[tuple[int, ...]] = []
    for path, name in islice(pairs, limit):
        try:
            status = path.stat()
        except OSError:
            continue  # it went away meanwhile
        places.append(Place(str(path), fingerprint(status), 0, status.st_size, str(path)))
        labels.append((number[name],))
    return Found(places=tuple(places), labels=tuple(labels), multi_label=False, class_names=names)


def _in_shards(patterns: Sequence[str], *, limit: int | None, limits: LimitsConfig) -> Found:
    shards = list({shard.url: shard for p in patterns for shard in _shards(p)}.values())
    found: list[_Labelled] = []
    seen: Counter[str] = Counter()
    for number, shard in enumerate(shards):
        # What is left is shared evenly by the shards that are left.
        quota = None if limit is None else -(-(limit - len(found)) // (len(shards) - number))
        found.extend(islice(_labelled(shard, limits, seen), quota))
    several = seen["several"] > 0
    if several and seen["one"]:
        raise ConfigError(
            f"{', '.join(patterns)}: {seen['one']} images have one label (KEY.cls) and "
            f"{seen['several']} have several (KEY.json); evaluate them apart"
        )
    if not found:
        raise ConfigError(
            f"no labelled image in {', '.join(patterns)} ({len(shards)} shards, {seen['none']} "
            "images without a label); a label is a member KEY.cls beside KEY.jpg, which holds a "
            'number, or KEY.json with {"labels": [numbers]}'
        )
    largest = max((label for _, labels in found for label in labels), default=-1)
    if largest < 0:
        raise ConfigError(f"{', '.join(patterns)}: every list of labels is empty")
    if largest >= _MAX_CLASSES:
        raise ConfigError(
            f"{', '.join(patterns)}: label {largest} is too large; labels are numbered from 0"
        )
    return Found(
        places=tuple(place for place, _ in found), labels=tuple(labels for _, labels in found),
        multi_label=several, class_names=(),
    )  # fmt: skip


def _labelled(shard: Shard, limits: LimitsConfig, seen: Counter[str]) -> Iterator[_Labelled]:
    """Labelled images of one shard; counts images with one label, several, and none."""
    try:
        for sample in ShardReader(shard, limits=limits, several_labels=True):
            if not isinstance(sample, RawSample):
                continue
            labels = sample.labels if sample.label is None else (sample.label,)
            if labels is None:
                seen["none"] += 1
                continue
            seen["several" if sample.label is None else "one"] += 1
            place = Place(
                shard.url, shard.fingerprint, sample.image_at, len(sample.image), sample.key
            )  # fmt: skip
            yield place, labels
    except StreamError as error:
        raise ConfigError(str(error)) from error


def _shards(pattern: str) -> list[Shard]:
    missing = describe_missing(pattern)
    if missing:
        raise ConfigError(missing)
    source = DirectorySource("labelled", pattern, settle_s=0.0)
    source.poll()  # an unfinished look needs a second one
    shards = source.poll()
    if not shards:
        raise ConfigError(f"{pattern} matches no shard (looked for .tar files)")
    return sorted(shards, key=lambda shard: shard.url)
