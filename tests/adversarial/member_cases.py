"""Members with hostile names, of odd kinds, in odd order; keys that clash."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

from streams.testing import jpeg_bytes
from tests.adversarial.case import Case
from tests.adversarial.tar_cases import JPEG
from tests.builders import TarItem, encode, header, pax_member, pax_record, picture, tar_of

NO_PICTURE = b"no picture"


def of(*members: TarItem | str) -> Callable[[Path], Path]:
    """`a.tar` of members; a bare name is a JPEG."""
    items = [(member, JPEG) if isinstance(member, str) else member for member in members]
    return lambda folder: tar_of(folder / "a.tar", items, format=tarfile.PAX_FORMAT)


def _name_case(name: str, what: str, stem: str, format: int = tarfile.PAX_FORMAT) -> Case:
    """The same of every hostile name."""
    members = [(f"{stem}-good.jpg", JPEG), (f"{stem}-bad.jpg", NO_PICTURE)]
    return Case(
        name=name, what=what, accepted=1, dropped={"unsupported": 1},
        write=lambda folder: tar_of(folder / "a.tar", members, format=format),
        note="no file is named after it",
    )  # fmt: skip


def _nul_name(folder: Path) -> None:
    record = pax_record("path", b"a\0/../../b.jpg")
    (folder / "a.tar").write_bytes(pax_member(record, "short.jpg", JPEG) + bytes(1024))


class Payload:
    """Unpickled, it makes a file `executed` in the folder above."""

    def __init__(self, folder: Path) -> None:
        self._command = f"touch {folder.parent / 'executed'}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self._command,)


def _pickle(folder: Path) -> None:
    evil = pickle.dumps(Payload(folder))
    members = [(f"a.{suffix}", evil) for suffix in ("pkl", "pickle", "pyd", "pth", "cls")]
    tar_of(folder / "a.tar", [*members, ("a.jpg", JPEG), ("b.jpg", evil)])


def _two(first: list[TarItem], second: list[TarItem]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tar_of(folder / "1.tar", first)
        tar_of(folder / "2.tar", second)

    return write


def _equal_basenames(folder: Path) -> None:
    for number, name in enumerate(("cam-1", "cam-2")):
        (folder / name).mkdir()
        tar_of(folder / name / "a.tar", [("k.jpg", jpeg_bytes(number))])


def _crowd(folder: Path) -> None:
    """Names of 64 KiB for 1,500 members of one sample."""
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for i in range(1500):
            tar.addfile(tarfile.TarInfo(f"a.{i}{'x' * 2**16}"))
        for key in "ab":
            info = tarfile.TarInfo(f"{key}.jpg")
            info.size = len(JPEG)
            tar.addfile(info, io.BytesIO(JPEG))


def _many(folder: Path) -> None:
    data = encode(picture(size=(8, 8)), "BMP")
    info = tarfile.TarInfo()
    info.size = len(data)
    with (folder / "a.tar").open("wb") as file:
        for i in range(100_000):
            info.name = f"{i}.bmp"
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0"))
        file.write(bytes(1024))


CASES = [
    _name_case("dots in a path", "names that climb with `..`", "../../../escape"),
    _name_case("absolute path", "names that begin with a slash", "/tmp/escape"),
    _name_case("300 characters", "names longer than a file system takes", "d" * 300),
    _name_case("no UTF-8", "names of bytes that are no text", "\udcff\udcfe"),
    _name_case("no UTF-8, GNU", "the same in the older format", "\udcff\udcfe", tarfile.GNU_FORMAT),
    _name_case("emoji", "names beyond the basic plane", "🐈"),
    _name_case("line break", "names that would forge a line of a log", 'a\n{"reason": "none"}\r'),
    Case(
        name="NUL in a name", what="a pax header whose path holds a zero byte and climbs",
        write=_nul_name, accepted=1,
    ),
    Case(
        name="links and devices",
        what="symbolic and hard links, character and block devices, pipes, folders among images",
        write=of(
            *(header(f"{kind.decode()}.jpg", kind) for kind in
              (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
               tarfile.FIFOTYPE, tarfile.DIRTYPE)),
            "a.jpg",
        ),
        accepted=1, note="they are passed over: only plain members belong to samples",
    ),
    Case(
        name="pickles", what="pickles that run a command, beside an image, as a label, as an image",
        write=_pickle, accepted=1, dropped={"unsupported": 1}, note="nothing is ever unpickled",
    ),
    Case(
        name="dotted stems", what="`photo.v1.jpg` and `photo.v2.jpg`, whose key ends at a dot",
        write=of("photo.v1.jpg", "photo.v2.jpg", "b.jpg"), accepted=1, dropped={"ambiguous": 1},
    ),
    Case(
        name="one dotted stem", what="`photo.v1.jpg` alone under its key",
        write=of("photo.v1.jpg", "b.jpg"), accepted=2,
    ),
    Case(
        name="suffixes that differ in case", what="`a.jpg` and `a.JPG` side by side",
        write=of("a.jpg", "a.JPG", "b.jpg"), accepted=1, dropped={"ambiguous": 1},
    ),
    Case(
        name="two pictures of one sample", what="`a.jpg` and `a.png` side by side",
        write=of("a.jpg", "a.png", "b.jpg"), accepted=1, dropped={"ambiguous": 1},
    ),
    Case(
        name="repeated key, adjacent", what="`a.jpg` twice in a row",
        write=of("a.jpg", "a.jpg", "b.jpg"), accepted=1, dropped={"ambiguous": 1},
    ),
    Case(
        name="repeated key, apart", what="`a.jpg`, `b.jpg`, `a.jpg`",
        write=of("a.jpg", "b.jpg", "a.jpg"), accepted=3,
        note="a sample is its position in the tar, not its key",
    ),
    Case(
        name="members apart", what="`a.jpg`, `b.jpg`, then the label `a.cls`",
        write=of("a.jpg", "b.jpg", ("a.cls", b"1")), accepted=2, dropped={"no_image": 1},
        note="members of one sample must be adjacent",
    ),
    Case(
        name="same key across shards", what="one shard ends with `k.jpg`, the next begins with it",
        write=_two([("a.jpg", JPEG), ("k.jpg", JPEG)], [("k.jpg", JPEG), ("b.jpg", JPEG)]),
        accepted=4, done=2,
    ),
    Case(
        name="chimera", what="one shard ends with `k.jpg`, the next begins with `k.cls`",
        write=_two([("a.jpg", JPEG), ("k.jpg", JPEG)], [("k.cls", b"1"), ("b.jpg", JPEG)]),
        accepted=3, dropped={"no_image": 1}, done=2, note="no sample crosses the end of a tar",
    ),
    Case(
        name="JSON before the image", what="`a.json`, then `a.jpg`",
        write=of(("a.json", b"{}"), "a.jpg", ("b.json", b"{}"), "b.jpg"), accepted=2,
    ),
    Case(
        name="no image", what="a sample of words and numbers only",
        write=of(("a.txt", b"words"), ("a.json", b"{}"), "b.jpg"), accepted=1,
        dropped={"no_image": 1},
    ),
    Case(
        name="crowded sample", what="1,500 members of one sample with names of 64 KiB",
        write=_crowd, accepted=1, dropped={"too_large": 1},
    ),
    Case(
        name="100,000 samples", what="very many very small images; their reader dies after 99,000",
        write=_many, crash_after=99_000, accepted=100_000,
    ),
    Case(
        name="equal basenames", what="two sources hold an `a.tar` with the same key",
        write=_equal_basenames, accepted=2, done=2, sources=("cam-1", "cam-2"),
    ),
]  # fmt: skip
