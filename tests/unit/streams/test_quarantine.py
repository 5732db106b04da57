"""A quarantine that cannot be written says so, and leaves no half copy."""

import os

import pytest

from streams.errors import QuarantineError
from streams.quarantine import Quarantine
from streams.shard import Shard

SHARD = Shard(url="/in/a.tar", source="s", size_bytes=10, fingerprint="f", discovered_at=0.0)


def keep(quarantine, data=b"x" * 5000):
    quarantine.keep_sample(SHARD, index=3, key="k", reason="corrupt", detail="d", suffix="jpg",
                           data=data)  # fmt: skip


def test_a_copy_and_a_line(tmp_path):
    keep(Quarantine(tmp_path / "q"))
    assert sorted(p.name for p in (tmp_path / "q").iterdir()) == [
        f"{SHARD.id}-000003.jpg", "samples.jsonl",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "q").write_text("a file")
    with pytest.raises(QuarantineError, match=r"quarantine .*/q: .*; make room or fix"):
        keep(Quarantine(tmp_path / "q"))


def test_a_full_disk_leaves_no_half_copy(tmp_path, monkeypatch):
    import pathlib

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(QuarantineError, match="No space left on device; make room"):
        keep(Quarantine(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    quarantine = Quarantine(tmp_path)
    quarantine.keep_shard(SHARD, fault="first")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    with pytest.raises(QuarantineError, match="No space left on device"):
        quarantine.keep_shard(SHARD, fault="second")
    assert (tmp_path / "shards.jsonl").read_text().count("\n") == 1
