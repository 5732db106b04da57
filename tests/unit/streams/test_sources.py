"""Which tars are offered, and when."""

import json
import logging
import os
import tarfile
from pathlib import Path

import pytest

from streams.errors import SourceError
from streams.sources import DirectorySource, describe_missing, parse_source, parse_sources
from streams.testing import FakeClock, GrowingFile, shard_of, truncate, write_test_shards

SETTLE_S = 20.0


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(clock):
    """Makes a source on the test's clock."""
    return lambda pattern: DirectorySource("s", str(pattern), settle_s=SETTLE_S, clock=clock)


@pytest.fixture
def tar_bytes(tmp_path_factory):
    return write_test_shards(tmp_path_factory.mktemp("made"), shards=1, samples_per_shard=2)[
        0
    ].read_bytes()


def put(path, data, *, at):
    """A file whose modification time is `at`, in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (at, at))
    return path


def names(shards, root):
    return [os.path.relpath(shard.url, root) for shard in shards]


# -- where is looked -------------------------------------------------------------------------------


def test_a_folder_is_searched_to_any_depth_oldest_first(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "z.tar", tar_bytes, at=clock.now - 300)
    put(tmp_path / "a/b/c.tar", tar_bytes, at=clock.now - 200)
    put(tmp_path / "a/a.tar", tar_bytes, at=clock.now - 200)
    put(tmp_path / "a/readme.txt", b"x", at=clock.now - 200)
    shards = make(tmp_path).poll()
    assert names(shards, tmp_path) == ["z.tar", "a/a.tar", "a/b/c.tar"]
    assert all(shard.url.startswith("/") for shard in shards)


def test_a_shard_is_described_as_found(make, clock, tmp_path, tar_bytes):
    path = put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    (shard,) = make(tmp_path).poll()
    expected = shard_of(path, source="s")
    assert (shard.id, shard.size_bytes, shard.source) == (expected.id, len(tar_bytes), "s")
    assert shard.discovered_at == clock.now


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("cam-*/*.tar", ["cam-1/a.tar", "cam-2/b.tar"]),
        ("cam-1", ["cam-1/a.tar", "cam-1/deep/d.tar"]),
        ("cam-?", ["cam-1/a.tar", "cam-1/deep/d.tar", "cam-2/b.tar"]),
        ("**/d.tar", ["cam-1/deep/d.tar"]),
        ("*/[bc].tar", ["cam-2/b.tar", "other/c.tar"]),
        ("cam-1/a.tar", ["cam-1/a.tar"]),
        ("cam-1/[a].tar", ["cam-1/a.tar"]),
        ("cam-1/../cam-2", ["cam-2/b.tar"]),
        ("cam-1/none.tar", []),
    ],
)
def test_patterns(make, clock, tmp_path, tar_bytes, pattern, expected):
    for name in ("cam-1/a.tar", "cam-2/b.tar", "other/c.tar", "cam-1/deep/d.tar"):
        put(tmp_path / name, tar_bytes, at=clock.now - 300)
    assert sorted(names(make(tmp_path / pattern).poll(), tmp_path)) == expected


def test_relative_patterns_become_absolute(make, clock, tmp_path, tar_bytes, monkeypatch):
    put(tmp_path / "a/a.tar", tar_bytes, at=clock.now - 300)
    monkeypatch.chdir(tmp_path)
    assert [shard.url for shard in make("a/*.tar").poll()] == [str(tmp_path / "a/a.tar")]


def test_a_tar_with_glob_characters_in_its_name(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "a[1].tar", tar_bytes, at=clock.now - 300)
    put(tmp_path / "a1.tar", tar_bytes, at=clock.now - 300)
    assert names(make(tmp_path / "a[1].tar").poll(), tmp_path) == ["a[1].tar"]


@pytest.mark.parametrize(
    "name",
    [".a.tar", "_a.tar", "a.tar.tmp", "a.tar.part", ".hidden/a.tar", "x/_b/a.tar", "a.tgz", "a"],
)
def test_unfinished_and_other_names_are_ignored(make, clock, tmp_path, tar_bytes, name):
    put(tmp_path / name, tar_bytes, at=clock.now - 300)
    assert make(tmp_path).poll() == []
    assert make(tmp_path / "**/*").poll() == []


def test_a_hidden_folder_above_the_root_does_not_matter(make, clock, tmp_path, tar_bytes):
    put(tmp_path / ".cache/_data/a.tar", tar_bytes, at=clock.now - 300)
    assert len(make(tmp_path / ".cache/_data").poll()) == 1


def test_links(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "in/a.tar", tar_bytes, at=clock.now - 300)
    put(tmp_path / "elsewhere/b.tar", tar_bytes, at=clock.now - 300)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/self").symlink_to("self")
    (tmp_path / "in/nothing.tar").symlink_to(tmp_path / "gone.tar")
    (tmp_path / "in/b-link.tar").symlink_to(tmp_path / "elsewhere/b.tar")
    os.link(tmp_path / "in/a.tar", tmp_path / "in/z-second-name-of-a.tar")
    for pattern in ("in", "in/**/*.tar", "in/*.tar"):
        shards = make(tmp_path / pattern).poll()
        assert names(shards, tmp_path / "in") == ["a.tar", "b-link.tar"]


def test_a_shard_is_offered_until_it_is_taken_and_again_after_a_restart(
    make, clock, tmp_path, tar_bytes
):
    put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    put(tmp_path / "b.tar", tar_bytes, at=clock.now - 200)
    source = make(tmp_path)
    first, second = source.poll()
    assert source.poll() == [first, second], "nobody has entered them yet"
    source.take([first])
    assert source.poll() == [second]
    source.take([second])
    assert source.poll() == []
    assert names(make(tmp_path).poll(), tmp_path) == ["a.tar", "b.tar"]


def test_new_bytes_under_the_name_of_a_taken_shard_are_offered(make, clock, tmp_path, tar_bytes):
    source = make(tmp_path)
    path = put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    source.take(source.poll())
    put(path, tar_bytes, at=clock.now - 200)
    (shard,) = source.poll()
    source.take([shard])
    assert source.poll() == []


def test_a_folder_named_like_a_tar_is_no_shard(make, tmp_path):
    (tmp_path / "a.tar").mkdir()
    assert make(tmp_path).poll() == []


def test_a_name_that_is_no_utf8_is_left_out_and_counted(make, clock, tmp_path, tar_bytes, caplog):
    put(tmp_path / "\udcff.tar", tar_bytes, at=clock.now - 300)
    put(tmp_path / "é.tar", tar_bytes, at=clock.now - 300)
    source = make(tmp_path)
    for _ in range(2):
        assert names(source.poll(), tmp_path) == ["é.tar"]
    assert source.left_out == 1
    (line,) = caplog.messages
    assert "\\udcff.tar" in line


# -- when it is offered ----------------------------------------------------------------------------


def test_old_whole_tars_are_offered_at_once(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "a.tar", tar_bytes, at=clock.now - SETTLE_S)
    assert len(make(tmp_path).poll()) == 1


def test_a_young_whole_tar_waits_for_a_second_poll(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "a.tar", tar_bytes, at=clock.now - 1)
    source = make(tmp_path)
    assert source.poll() == []
    clock.advance(2)
    assert len(source.poll()) == 1


def test_a_growing_file_is_not_offered(make, clock, tmp_path, tar_bytes):
    path = tmp_path / "a.tar"
    source = make(tmp_path)
    with GrowingFile(path, tar_bytes) as file:
        for _ in range(5):
            file.write(700)
            os.utime(path, (clock.now, clock.now))
            assert source.poll() == []
            clock.advance(SETTLE_S - 1)
            assert source.poll() == []  # a pause, still shorter than settle_s
        file.finish()
    os.utime(path, (clock.now, clock.now))
    assert source.poll() == []
    clock.advance(2)
    (shard,) = source.poll()
    assert shard.size_bytes == len(tar_bytes)


def test_a_cut_tar_is_offered_once_it_has_settled(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "a.tar", tar_bytes[:1500], at=clock.now)
    source = make(tmp_path)
    assert source.poll() == []
    clock.advance(SETTLE_S - 1)
    assert source.poll() == []
    assert source.settling == 1
    clock.advance(1)
    assert len(source.poll()) == 1
    assert source.settling == 0


@pytest.mark.parametrize("data", [b"", b"no tar at all", bytes(1023), bytes(1025)])
def test_what_is_no_tar_is_offered_when_settled_so_that_the_reader_can_say_so(
    make, clock, tmp_path, data
):
    put(tmp_path / "old.tar", data, at=clock.now - SETTLE_S)
    put(tmp_path / "young.tar", data, at=clock.now - 1)
    source = make(tmp_path)
    assert names(source.poll(), tmp_path) == ["old.tar"]
    clock.advance(2)
    assert names(source.poll(), tmp_path) == ["old.tar"]


def test_a_modification_time_in_the_future_counts_from_first_sight(
    make, clock, tmp_path, tar_bytes
):
    put(tmp_path / "cut.tar", tar_bytes[:1500], at=clock.now + 3600)
    put(tmp_path / "whole.tar", tar_bytes, at=clock.now + 3600)
    source = make(tmp_path)
    assert source.poll() == []
    clock.advance(2)
    assert names(source.poll(), tmp_path) == ["whole.tar"]
    clock.advance(SETTLE_S)
    assert names(source.poll(), tmp_path) == ["cut.tar", "whole.tar"]


def test_a_manifest_that_agrees_ends_the_wait(make, clock, tmp_path, tar_bytes):
    path = put(tmp_path / "a.tar", tar_bytes, at=clock.now)
    (tmp_path / "a.tar.json").write_text(json.dumps({"size_bytes": len(tar_bytes)}))
    (shard,) = make(tmp_path).poll()
    assert shard.url == str(path)


def test_a_manifest_that_disagrees_holds_the_shard_back(make, clock, tmp_path, tar_bytes, caplog):
    put(tmp_path / "a.tar", tar_bytes, at=clock.now)
    (tmp_path / "a.tar.json").write_text(json.dumps({"size_bytes": len(tar_bytes) + 512}))
    source = make(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert source.poll() == []
        assert not caplog.records
        for _ in range(3):
            clock.advance(SETTLE_S)
            assert source.poll() == []
    assert source.settling == 0, "nobody knows whether it ever comes"
    (record,) = caplog.records
    assert "shard_held_back" in record.getMessage()
    (tmp_path / "a.tar.json").unlink()
    assert len(source.poll()) == 1


@pytest.mark.parametrize("manifest", ["{", "[]", "3", "null", '{"size_bytes": "x"}', "{}", "\xff"])
def test_a_sidecar_that_is_no_manifest_of_ours_is_ignored(
    make, clock, tmp_path, tar_bytes, manifest
):
    put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    (tmp_path / "a.tar.json").write_text(manifest, encoding="latin-1")
    assert len(make(tmp_path).poll()) == 1


def test_offers_stay_and_keep_their_discovery_time(make, clock, tmp_path, tar_bytes):
    put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    source = make(tmp_path)
    first = source.poll()
    clock.advance(50)
    assert source.poll() == first


def test_new_bytes_under_an_old_name_are_a_new_shard(make, clock, tmp_path, tar_bytes):
    path = put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    source = make(tmp_path)
    (old,) = source.poll()
    put(path, tar_bytes, at=clock.now)
    assert source.poll() == []
    clock.advance(2)
    (new,) = source.poll()
    assert new.id != old.id


def test_a_deleted_shard_is_no_longer_offered(make, clock, tmp_path, tar_bytes):
    path = put(tmp_path / "a.tar", tar_bytes, at=clock.now - 300)
    source = make(tmp_path)
    assert len(source.poll()) == 1
    path.unlink()
    assert source.poll() == []


def test_packed_shards_are_offered_at_once(make, tmp_path):
    write_test_shards(tmp_path, shards=2, samples_per_shard=1)
    assert len(make(tmp_path).poll()) == 2


def test_a_truncated_test_shard_is_held_until_settled(make, clock, tmp_path):
    (path,) = write_test_shards(tmp_path, shards=1, samples_per_shard=2)
    truncate(path, 1500)
    os.utime(path, (clock.now, clock.now))
    source = make(tmp_path)
    assert source.poll() == []
    clock.advance(SETTLE_S)
    assert len(source.poll()) == 1


def test_gnu_and_pax_tars_count_as_closed(make, clock, tmp_path):
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / f"{format}.tar", "w", format=format):
            pass
        os.utime(tmp_path / f"{format}.tar", (clock.now - 1, clock.now - 1))
    source = make(tmp_path)
    source.poll()
    assert len(source.poll()) == 2


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_missing_folder_is_a_source_error(make, tmp_path):
    with pytest.raises(SourceError, match="cannot list") as caught:
        make(tmp_path / "gone/*.tar").poll()
    assert caught.value.source == "s"
    assert str(tmp_path / "gone") in str(caught.value)


def refuse(monkeypatch, folder):
    """Make one folder unlistable, also for root."""
    real = os.scandir

    def scandir(path):
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_root_that_cannot_be_listed_is_a_source_error(make, tmp_path, monkeypatch):
    refuse(monkeypatch, tmp_path)
    with pytest.raises(SourceError, match="Permission denied"):
        make(tmp_path).poll()


def test_a_deeper_folder_that_cannot_be_listed_is_left_out_with_one_warning(
    make, clock, tmp_path, tar_bytes, monkeypatch, caplog
):
    put(tmp_path / "good/a.tar", tar_bytes, at=clock.now - 300)
    (tmp_path / "lost+found").mkdir()
    refuse(monkeypatch, tmp_path / "lost+found")
    source = make(tmp_path)
    for _ in range(3):
        assert len(source.poll()) == 1
    (record,) = caplog.records
    assert "lost+found" in record.getMessage()


# -- names of sources ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cam=/data/x", ("cam", "/data/x")),
        ("/data/My Cams", ("my-cams", "/data/My Cams")),
        ("/data/cam_1/*.tar", ("cam_1", "/data/cam_1/*.tar")),
        ("/data/cam/a.tar", ("cam", "/data/cam/a.tar")),
        ("/data/date=2026-01-31/*.tar", ("date-2026-01-31", "/data/date=2026-01-31/*.tar")),
        ("day=/data/date=2026-01-31", ("day", "/data/date=2026-01-31")),
        ("/data/日本", ("stream", "/data/日本")),
        ("/", ("stream", "/")),
    ],
)
def test_parse_source(tmp_path, text, expected):
    if text in ("/data/My Cams", "/data/日本"):  # a folder that exists gives its own name
        text, expected = f"{tmp_path}{text}", (expected[0], f"{tmp_path}{text}")
        Path(text).mkdir(parents=True)
    assert parse_source(text) == expected


def test_the_name_of_a_relative_folder(tmp_path, monkeypatch):
    (tmp_path / "cam").mkdir()
    monkeypatch.chdir(tmp_path / "cam")
    assert parse_source(".") == ("cam", ".")


@pytest.mark.parametrize("text", ["Cam=/data", "a b=/data", "=/data", "cam=", ""])
def test_bad_sources_are_refused(text):
    with pytest.raises(ValueError, match=r"source name|names no place"):
        parse_source(text)


def test_derived_names_get_numbers_and_given_ones_must_differ():
    sources = parse_sources(["/a/cam/*.tar", "/b/cam/*.tar", "cam-2=/c", "/d/cam/*.tar"])
    assert sources == {
        "cam": "/a/cam/*.tar", "cam-3": "/b/cam/*.tar", "cam-2": "/c", "cam-4": "/d/cam/*.tar",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'x' is given twice"):
        parse_sources(["x=/a", "x=/b"])


def test_describe_missing(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"x")
    assert describe_missing(str(tmp_path)) is None
    assert describe_missing(str(tmp_path / "*.tar")) is None
    assert describe_missing(str(tmp_path / "cam-*")) is None
    assert describe_missing(str(tmp_path / "later.tar")) is None
    for pattern, words in [
        ("gone/*.tar", "does not exist"),
        ("gone/deeper/x.tar", "does not exist"),
        ("a.zip/*.tar", "is not a folder"),
        ("a.zip", "uncompressed .tar"),
        ("gone", "does not exist; make the folder"),
        ("x-{0..9}.tar", "braces are not expanded"),
        ("_x.tar", "unfinished"),
    ]:
        assert words in describe_missing(str(tmp_path / pattern))
