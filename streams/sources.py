"""Where shards appear. Listing is the truth; nothing here depends on notifications."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from streams.errors import SourceError
from streams.shard import Shard, shard_id
from streams.storage import fingerprint
from streams.tar import BLOCK

logger = logging.getLogger(__name__)

_GLOB = re.compile(r"[*?\[]")
_ANY_TAR = ("**", "*.tar")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(slots=True)
class _Sighting:
    """A file that is there but not offered yet."""

    fingerprint: str
    first_seen_at: float
    warned: bool = False


class DirectorySource:
    """Tars below a folder, or matching a glob (also below folders matching it), or one tar.

    Half-written shards are not offered. Names and folders (below the fixed part of the pattern)
    that begin with `.` or `_`, and names ending in `.tmp` or `.part`, are ignored. A tar is offered

    - when its sidecar manifest `<name>.tar.json` agrees with its size (and never while it
      disagrees);
    - without a manifest, when it ends in the closing zero blocks and is either unchanged since the
      last poll or older than `settle_s`;
    - without closing blocks, when it is unchanged for `settle_s` seconds, counted from its
      modification time: a slow copy may pause, but at some point the tar is cut, and the reader
      says so.

    `**` and the search of a folder do not follow links to folders, so loops end; a link to a tar
    is a tar. A file with several names is offered once, under the first of them. A tar whose path
    is no UTF-8 is left out (`left_out` counts them), with one warning.

    Args:
        name: Name of the source, for books and metrics.
        pattern: A folder (searched to any depth), a glob (`*`, `?`, `[...]`, `**`), or a tar.
        settle_s: See above, in seconds.
        clock: Unix time in seconds.
    """

    def __init__(
        self, name: str, pattern: str, *, settle_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self.pattern = pattern
        self._settle_s = settle_s
        self._clock = clock
        self.settling = 0
        """Tars seen by the last poll that a later one will offer: the stream has not ended."""
        self._sightings: dict[str, _Sighting] = {}
        self._offered: dict[str, Shard] = {}
        # Ids as numbers: all that is remembered of a file which stays after it was taken.
        self._taken: set[int] = set()
        self._unlistable: set[str] = set()
        self._unnameable: set[str] = set()

    @property
    def left_out(self) -> int:
        """Tars never offered because their path is no UTF-8: no book or log could name them."""
        return len(self._unnameable)

    def poll(self) -> list[Shard]:
        """Every shard that is on offer now and was not `take`n, oldest modification first.

        Raises:
            SourceError: If the folder cannot be listed. A folder further down that cannot be
                listed is left out, with one warning.
        """
        now = self._clock()
        files: set[int] = set()
        present: set[str] = set()
        taken: set[int] = set()
        offers: list[tuple[int, Shard]] = []
        for path in self._list():
            if not _is_text(path):
                if path not in self._unnameable:
                    self._unnameable.add(path)
                    logger.warning("shard_left_out source=%s shard=%r: its path is no UTF-8; "
                                   "rename it", self.name, path)  # fmt: skip
                continue
            try:
                status = Path(path).stat()
            except OSError:
                continue  # it vanished, or is a link to nothing
            file = status.st_dev << 64 | status.st_ino
            if not stat.S_ISREG(status.st_mode) or file in files:
                continue
            files.add(file)
            version = fingerprint(status)
            number = int(shard_id(path, version), 16)
            if number in self._taken:
                taken.add(number)
                continue
            present.add(path)
            shard = self._offer(path, status, version, now)
            if shard is not None:
                offers.append((status.st_mtime_ns, shard))
        self._sightings = {p: s for p, s in self._sightings.items() if p in present}
        self.settling = sum(not sighting.warned for sighting in self._sightings.values())
        self._offered = {p: s for p, s in self._offered.items() if p in present}
        self._taken = taken
        return [shard for _, shard in sorted(offers, key=lambda offer: (offer[0], offer[1].url))]

    def take(self, shards: Iterable[Shard]) -> None:
        """These are in the book: offer them no more. A new source, after a restart, offers all."""
        for shard in shards:
            self._offered.pop(shard.url, None)
            self._taken.add(int(shard.id, 16))

    def candidates(self) -> list[str]:
        """Paths of all tars in place, those included that are not yet on offer.

        Raises:
            SourceError: If the folder cannot be listed.
        """
        return list(self._list())

    def _list(self) -> Iterator[str]:
        root, parts = _split_pattern(self.pattern)
        try:
            yield from self._find(root, parts)
        except OSError as error:
            raise SourceError(
                f"source {self.name}: cannot list {root}: {error.strerror or error}",
                source=self.name,
            ) from error

    def _find(self, folder: str, parts: Sequence[str], *, at_root: bool = True) -> Iterator[str]:
        """Paths of tars below `folder` that match the pattern's `parts`."""
        head, rest = parts[0], parts[1:]
        if head == "**":
            yield from self._find(folder, rest, at_root=at_root)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if at_root:
                raise
            if not isinstance(error, FileNotFoundError) and folder not in self._unlistable:
                self._unlistable.add(folder)
                logger.warning(
                    "folder_left_out source=%s folder=%s error=%s", self.name, folder, error
                )
            return
        for entry in entries:
            if entry.name.startswith((".", "_")):
                continue
            if not rest:
                if not fnmatchcase(entry.name, head):
                    continue
                if entry.name.endswith(".tar"):
                    yield entry.path
                elif not head.endswith(".tar") and _is_folder(entry, follow_links=True):
                    yield from self._find(entry.path, _ANY_TAR, at_root=False)
            elif head == "**":
                if _is_folder(entry, follow_links=False):
                    yield from self._find(entry.path, parts, at_root=False)
            elif fnmatchcase(entry.name, head) and _is_folder(entry, follow_links=True):
                yield from self._find(entry.path, rest, at_root=False)

    def _offer(self, path: str, status: os.stat_result, version: str, now: float) -> Shard | None:
        known = self._offered.get(path)
        if known is not None and known.fingerprint == version:
            return known
        sighting = self._sightings.get(path)
        if sighting is not None:  # a clock that was set back must not make it wait
            sighting.first_seen_at = min(sighting.first_seen_at, now)
        unchanged = sighting is not None and sighting.fingerprint == version
        if sighting is None or not unchanged:
            sighting = self._sightings[path] = _Sighting(version, now)
        quiet_s = now - min(status.st_mtime, sighting.first_seen_at)
        settled = quiet_s >= self._settle_s
        promised = _promised_size(path)
        if promised is not None:
            ready = promised == status.st_size
            if not ready and settled and not sighting.warned:
                sighting.warned = True
                logger.warning(
                    "shard_held_back shard=%s size_bytes=%d manifest_bytes=%d: "
                    "delete or renew the manifest beside it if the tar is right",
                    path, status.st_size, promised,
                )  # fmt: skip
        elif _has_closing_blocks(path, status.st_size):
            ready = unchanged or settled
        else:
            ready = settled
        if not ready:
            return None
        del self._sightings[path]
        shard = Shard(
            url=path,
            size_bytes=status.st_size,
            fingerprint=version,
            discovered_at=now,
            source=self.name,
        )
        self._offered[path] = shard
        return shard


def parse_source(text: str) -> tuple[str, str]:
    """Name and pattern of `NAME=PATTERN` or `PATTERN`; a missing name is that of the folder.

    Raises:
        ValueError: If the pattern is empty or the name has characters other than a-z, 0-9, _ and -.
    """
    name, pattern = _explicit(text)
    return name or _derived_name(pattern), pattern


def parse_sources(texts: Sequence[str]) -> dict[str, str]:
    """Patterns by name, in order. Equal derived names get a number: `cam`, `cam-2`.

    Raises:
        ValueError: As `parse_source`, or if a name is given twice.
    """
    pairs = [_explicit(text) for text in texts]
    taken = [name for name, _ in pairs if name]
    repeated = sorted({name for name in taken if taken.count(name) > 1})
    if repeated:
        raise ValueError(f"the source name {repeated[0]!r} is given twice; names must differ")
    sources: dict[str, str] = {}
    for name, pattern in pairs:
        unique = name
        if not name:
            base, number = _derived_name(pattern), 1
            unique = base
            while unique in sources or unique in taken:
                number += 1
                unique = f"{base}-{number}"
        sources[unique] = pattern
    return sources


def describe_missing(pattern: str) -> str | None:
    """A sentence on why a pattern can never offer a shard, or None if it can."""
    root, parts = _split_pattern(pattern)
    folder = Path(root)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        return f"the folder {folder} {problem}; make it first, or correct the path"
    last = parts[-1]
    if "{" in last and not (folder / last).exists():
        return f"{pattern}: braces are not expanded; use a glob such as {folder}/*.tar"
    if not last.endswith(".tar") and not _GLOB.search(last) and not (folder / last).exists():
        return f"{pattern} does not exist; make the folder first, or correct the path"
    if not last.endswith(".tar") and not _GLOB.search(last):
        return f"{pattern} is neither a folder nor a .tar; shards are uncompressed .tar files"
    if last.startswith((".", "_")):
        return f"{pattern}: names that begin with . or _ are taken for unfinished; rename it"
    return None


def _explicit(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not equals or "/" in name or _GLOB.search(name):
        name, pattern = "", text  # the = belongs to a path, as in date=2026-01-31
    elif not _NAME.fullmatch(name):
        raise ValueError(f"source name {name!r} in {text!r} may only hold a-z, 0-9, _ and -")
    if not pattern:
        raise ValueError(f"{text!r} names no place; write NAME=FOLDER or FOLDER")
    return name, os.path.expanduser(pattern)  # noqa: PTH111 - Path would drop a final slash


def _derived_name(pattern: str) -> str:
    root, _ = _split_pattern(pattern)
    return re.sub(r"[^a-z0-9_-]+", "-", Path(root).name.lower()).strip("-_") or "stream"


def _split_pattern(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The folder where a search begins, absolute, and what to match below it."""
    path = Path(os.path.abspath(pattern))  # noqa: PTH100 - also removes `..`
    if path.is_dir():
        return str(path), _ANY_TAR
    parts = path.parts[1:]
    if path.exists():  # a tar, whatever characters its name holds
        return str(path.parent), (_GLOB.sub(r"[\g<0>]", path.name),)
    fixed = next((i for i, part in enumerate(parts) if _GLOB.search(part)), len(parts) - 1)
    return str(Path(path.anchor, *parts[:fixed])), parts[fixed:]


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str], *, follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:
        return False


def _promised_size(path: str) -> int | None:
    """Bytes that the sidecar manifest promises, or None without a manifest of ours."""
    try:
        manifest = json.loads(Path(f"{path}.json").read_bytes())
        size = manifest["size_bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) else None


def _has_closing_blocks(path: str, size_bytes: int) -> bool:
    if size_bytes < 2 * BLOCK or size_bytes % BLOCK:
        return False
    try:
        with Path(path).open("rb") as file:
            file.seek(size_bytes - 2 * BLOCK)
            return file.read(2 * BLOCK) == bytes(2 * BLOCK)
    except OSError:
        return False
