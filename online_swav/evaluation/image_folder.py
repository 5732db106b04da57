"""Labelled images in a folder whose subfolders are the classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from online_swav.errors import ConfigError
from online_swav.evaluation.places import Found, Place
from streams.reader import IMAGE_SUFFIXES
from streams.storage import fingerprint

logger = logging.getLogger(__name__)

_LOOKED_FOR = ", ".join(f".{suffix}" for suffix in sorted(IMAGE_SUFFIXES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What a folder holds at any depth, links followed; names that begin with a dot left away."""

    folder: Path
    images: tuple[Path, ...]
    """In the order of their paths."""
    tar: Path | None
    """One of its tars; None without any."""
    unread: tuple[str, ...]
    """Folders that could not be listed, with the reason."""


def tree_of(folder: Path) -> Tree:
    """Walk through a folder."""
    unread: list[OSError] = []
    images: list[Path] = []
    tar: Path | None = None
    for path in _files(folder, unread):
        if path.suffix[1:].lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif path.suffix == ".tar" and tar is None:
            tar = path
    return Tree(
        folder=folder, images=tuple(sorted(images)), tar=tar,
        unread=tuple(f"{error.filename}: {error.strerror}" for error in unread),
    )  # fmt: skip


def in_folder(tree: Tree, *, limit: int | None, class_names: Sequence[str] | None) -> Found:
    """The images of a folder, labelled by the first folder below it.

    Raises:
        ConfigError: If there are none, or a class is not among `class_names`.
    """
    folder = tree.folder
    by_class: dict[str, list[Path]] = {}
    loose = 0
    for path in tree.images:
        parts = path.relative_to(folder).parts
        if len(parts) == 1:
            loose += 1
        else:
            by_class.setdefault(parts[0], []).append(path)
    if not by_class and loose:
        raise ConfigError(
            f"{folder} has images and no labels: put the images of each class into a folder of "
            f"its own, as {folder}/CLASS/NAME.jpg"
        )
    if not by_class:
        raise ConfigError(
            f"{folder} holds neither shards (.tar) nor images (looked for {_LOOKED_FOR}, at any "
            "depth)" + "".join(f"; {words}" for words in tree.unread[:1])
        )
    names = _ordered(by_class) if class_names is None else tuple(class_names)
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
    gone: list[Path] = []
    for path, name in islice(pairs, limit):
        try:
            status = path.stat()
        except OSError:
            gone.append(path)  # a link to nothing, or it went away meanwhile
            continue
        places.append(Place(str(path), fingerprint(status), 0, status.st_size, str(path)))
        labels.append((number[name],))
    _tell(tree, loose=loose, gone=gone)
    if not places:
        raise ConfigError(f"none of the images in {folder} can be opened; the first: {gone[0]}")
    return Found(places=tuple(places), labels=tuple(labels), multi_label=False, class_names=names)


def _ordered(names: Sequence[str] | dict[str, list[Path]]) -> tuple[str, ...]:
    """Sorted; numbers by their value, as the labels in shards are."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _tell(tree: Tree, *, loose: int, gone: Sequence[Path]) -> None:
    """One warning about all that is passed over."""
    said = []
    if loose:
        said.append(f"{loose} images lie beside the class folders and have no label")
    if gone:
        said.append(f"{len(gone)} images cannot be opened, the first: {gone[0]}")
    if tree.unread:
        said.append(f"{len(tree.unread)} folders cannot be listed, the first: {tree.unread[0]}")
    if said:
        logger.warning("passed over in %s: %s", tree.folder, "; ".join(said))


def _files(folder: Path, unread: list[OSError]) -> Iterator[Path]:
    """Files at any depth; folders that are links are entered, those that lead back up are not."""
    above = {os.fspath(folder): frozenset({_identity(folder)})}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=unread.append):
        known = above.pop(place)
        below = [name for name in folders if not name.startswith(".")]
        folders.clear()
        for name in below:
            path = Path(place, name)
            try:
                identity = _identity(path)
            except OSError as error:
                unread.append(error)
                continue
            if identity not in known:
                above[os.fspath(path)] = known | {identity}
                folders.append(name)
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
