"""Files that grow, are replaced, deleted or renamed while they are read; clocks; odd files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from streams.testing import jpeg_bytes, truncate
from tests.adversarial.case import Case
from tests.adversarial.tar_cases import SECOND, cut, three
from tests.builders import encode, picture, tar_of

AGAIN = "the whole file is a new shard, all of whose images are trained"
PRECONDITION = "; a source must not change shards in place"


def nine(folder: Path, count: int = 9) -> Path:
    """`a.tar` of nine images, more than one read of the file brings in."""
    members = ((f"{i}.jpg", jpeg_bytes(i, (512, 512))) for i in range(count))
    return tar_of(folder / "a.tar", members)


def _bitmaps(mode: str) -> Callable[[Path], Path]:
    """`a.tar` of nine pictures, whose layout does not depend on their colours."""
    data = encode(picture(mode, size=(90, 60)).convert("RGB"), "BMP")
    return lambda folder: tar_of(folder / "a.tar", [(f"{i}.bmp", data) for i in range(9)])


def _grow(folder: Path) -> None:
    """Rewritten with two more members, as `tar --append` does it."""
    made = folder.parent / "made"
    made.mkdir()
    longer = nine(made, 11).read_bytes()
    with (folder / "a.tar").open("rb+") as file:
        file.write(longer)


def _replace(folder: Path) -> None:
    made = folder / ".a.tar"
    three(folder.parent).rename(made)
    made.rename(folder / "a.tar")


def _rename(folder: Path) -> None:
    (folder / "a.tar").rename(folder / "b.tar")


def _append(folder: Path) -> None:
    path = folder / "a.tar"
    path.write_bytes(path.read_bytes() + bytes(1024))


def _link_to_nothing(folder: Path) -> None:
    three(folder).rename(folder / "b.tar")
    (folder / "a.tar").symlink_to(".late")


def _fill_link(folder: Path) -> None:
    three(folder.parent).rename(folder / ".late")


def _finish_copy(folder: Path) -> None:
    three(folder)


def _odd_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe.tar")
    (folder / "folder.tar").mkdir()
    (folder / "link.tar").symlink_to("nothing")


def _two_names(folder: Path) -> None:
    path = three(folder)
    os.link(path, folder / "b.tar")
    (folder / "c.tar").symlink_to(path)


def _named(name: str) -> Callable[[Path], Path]:
    return lambda folder: three(folder).rename(folder / name)


CASES = [
    Case(
        name="growing while it is copied", what="a tar of which a part is there when it is listed",
        write=cut(SECOND + 100), meddle=_finish_copy, clock_ahead_s=0.0, accepted=3,
        note="it waits until it is whole",
    ),
    Case(
        name="growing while it is read", what="members are appended to a whole tar of nine images",
        write=nine, meddle=_grow, accepted=2 + 11, dropped={"truncated": 1}, done=2,
        faults=("changed while it was read",), note=AGAIN + PRECONDITION,
    ),
    Case(
        name="overwritten while it is read", what="another tar of that size is written over it",
        write=_bitmaps("RGB"), meddle=_bitmaps("L"), accepted=2 + 9, dropped={"truncated": 1},
        done=2, faults=("changed while it was read",),
        note="nothing of the old and the new bytes is mixed; " + AGAIN + PRECONDITION,
    ),
    Case(
        name="emptied while it is read", what="the file is truncated to nothing",
        write=nine, meddle=lambda folder: truncate(folder / "a.tar", 0), accepted=2,
        dropped={"truncated": 1}, quarantined=1, faults=("changed while it was read", "is empty"),
    ),
    Case(
        name="replaced while it is read", what="another tar is renamed over it",
        write=nine, meddle=_replace, accepted=9 + 3, done=2,
        note="the old one is read to its end, the new one is a new shard",
    ),
    Case(
        name="deleted while it is read", what="the file is unlinked after the first batch",
        write=nine, meddle=lambda folder: (folder / "a.tar").unlink(), accepted=9,
        note="as long as its reader lives",
    ),
    Case(
        name="renamed while it is read", what="`a.tar` becomes `b.tar` after the first batch",
        write=nine, meddle=_rename, accepted=9 + 9, done=2,
        note="under its new name it is a new shard, trained again; a source must not rename shards",
    ),
    Case(
        name="gone before it is opened", what="deleted between the listing and the opening",
        write=three, before_open=lambda folder: (folder / "a.tar").unlink(), accepted=0, done=0,
        quarantined=1, faults=("is gone",),
    ),
    Case(
        name="changed before it is opened", what="bytes are added between listing and opening",
        write=three, before_open=_append, accepted=3, quarantined=1,
        faults=("changed since it was discovered",),
        note="the new bytes are a new shard, which is trained",
    ),
    Case(
        name="listed before it can be opened", what="a name whose bytes arrive later",
        write=_link_to_nothing, meddle=_fill_link, accepted=6, done=2,
    ),
    Case(
        name="reader's clock an hour ahead", what="of the clock that dates the files",
        write=three, clock_ahead_s=3600.0, accepted=3,
    ),
    Case(
        name="reader's clock an hour behind", what="of the clock that dates the files",
        write=three, clock_ahead_s=-3600.0, accepted=3,
    ),
    Case(
        name="clock an hour ahead during a copy", what="half a tar looks as if it had long settled",
        write=cut(SECOND + 100), meddle=_finish_copy, clock_ahead_s=3600.0, accepted=3, done=2,
        dropped={"truncated": 1}, faults=("inside a header",),
        note="the half is taken for a cut tar, then " + AGAIN
        + "; copy under another name and rename, or write the manifest first",
    ),
    Case(
        name="clock set back an hour", what="while a cut tar waits to settle",
        write=cut(2 * SECOND + 600), clock_ahead_s=0.0, clock_jump_s=-3600.0, accepted=2,
        dropped={"truncated": 1}, faults=("inside a member",), note="it does not wait an hour",
    ),
    Case(
        name="no plain files", what="a named pipe, a folder and a link to nothing, called `.tar`",
        write=_odd_files, accepted=0, done=0,
    ),
    Case(
        name="several names of one file", what="a hard link and a symbolic link beside a tar",
        write=_two_names, accepted=3, note="it is offered once",
    ),
    Case(
        name="odd name of a shard", what="emoji, blanks, quotes and a line break",
        write=_named("🐈 'a\n\"b.tar"), accepted=3,
    ),
    Case(
        name="a shard's name is no UTF-8", what="bytes that are no text, such as `\\xff.tar`",
        write=_named("\udcff.tar"), accepted=0, done=0,
        note="a warning asks to rename it, and the source's errors count it",
    ),
]  # fmt: skip
