"""Sources before a start: what can be read, what cannot and why, how fast."""

import dataclasses
import os
import time

import pytest

from online_swav.config import RunConfig
from online_swav.learning.config import LearnerConfig, QueueConfig
from online_swav.preflight.sources import AT_START, THOROUGH, SourceReading, choose
from streams.config import CropFamily
from streams.pack import write_shard
from streams.testing import jpeg_bytes, truncate, write_test_shards

CROPS = (CropFamily(size=32, num=2, scale=(0.3, 1.0)), CropFamily(size=16, num=2, scale=(0.1, 0.3)))


@pytest.fixture
def config(tmp_path):
    return RunConfig(run=str(tmp_path / "run"), source=("s=unused",), crops=CROPS)


def shards_of(folder):
    return {"s": sorted(str(path) for path in folder.glob("*.tar"))}


def read(config, folder, effort=AT_START, **options):
    return SourceReading(config, shards_of(folder), effort, **options).finish()


def age(folder, seconds=3600.0):
    """What lies there is no longer being copied."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_good_shards_are_read_and_timed(config, tmp_path):
    write_test_shards(tmp_path / "in", shards=4, samples_per_shard=30)
    (check,), rate = read(config, tmp_path / "in")
    assert check.level == "ok"
    assert check.text == (
        "source s: 3 of 4 shards looked into, 24 images read, short side 48 px in the median"
    )
    assert rate > 0


def test_the_bounds_hold(config, tmp_path):
    write_test_shards(tmp_path / "in", shards=2, samples_per_shard=30)
    for effort, images in (
        (dataclasses.replace(THOROUGH, images=10), 10),
        (dataclasses.replace(THOROUGH, shards=1), 30),
        (dataclasses.replace(THOROUGH, num_bytes=1), 1),  # one in any case
        (dataclasses.replace(THOROUGH, seconds=0.0), 1),
    ):
        (check,), _ = read(config, tmp_path / "in", effort)
        assert f" {images} images read" in check.text


def test_an_empty_source_is_waited_for(config, tmp_path):
    (tmp_path / "in").mkdir()
    (check,), rate = read(config, tmp_path / "in")
    assert (check.level, rate) == ("warning", None)
    assert "no shard yet" in check.text


def test_bad_images_are_named_by_shard_and_key(config, tmp_path):
    samples = [(f"{i:03d}", {"jpg": jpeg_bytes(i)}) for i in range(9)]
    samples += [("009", {"jpg": b"no picture"}), ("010", {"txt": b"no image"})]
    write_shard(tmp_path / "in.tar", samples)
    (check,), _ = read(config, tmp_path)
    assert check.level == "warning"
    assert "9 images read, short side 48 px in the median, 2 cannot be used (18%)" in check.text
    assert "in.tar, key '009': unsupported: " in check.text
    assert "in.tar, key '010': no_image: " in check.text
    assert check.text.endswith("They go to quarantine/, with their reasons.")
    strict = dataclasses.replace(
        config, budget=dataclasses.replace(config.budget, max_bad_share=0.1)
    )
    (check,), _ = read(strict, tmp_path)
    assert check.text.endswith("Over 10% a source is paused: correct it, or raise "
                               "--budget.max-bad-share.")  # fmt: skip


def test_a_source_of_rubbish_is_refused_at_the_first_start_only(config, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    age(folder)
    (check,), rate = read(config, folder)
    assert (check.level, rate) == ("refusal", None)
    assert "2 of 2 shards looked into, and no image in them can be used" in check.text
    assert "a.tar is not a tar but looks like gzip data; unpack it with gunzip" in check.text
    # A run that has begun has them in quarantine, and goes on with what comes next.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.sqlite").touch()
    (check,), _ = read(config, folder)
    assert check.level == "warning"


def test_one_bad_shard_among_good_ones_is_warned_of(config, tmp_path):
    *_, last = write_test_shards(tmp_path / "in", shards=2, samples_per_shard=10)
    truncate(last, last.stat().st_size // 2)
    age(tmp_path / "in")
    (check,), rate = read(config, tmp_path / "in", THOROUGH)
    assert check.level == "warning"
    assert f"{last.name}: ends at byte" in check.text
    assert rate > 0


def test_a_shard_that_is_still_copied_is_no_fault(config, tmp_path):
    (shard,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=10)
    truncate(shard, shard.stat().st_size // 2)
    (check,), _ = read(config, tmp_path / "in", THOROUGH)
    assert check.level == "ok"
    shard.write_bytes(shard.read_bytes()[:100])
    (check,), _ = read(config, tmp_path / "in")
    assert check.text == "source s: 1 shards, all still being written"


def test_small_pictures_and_a_queue_of_all_images_are_warned_of(config, tmp_path):
    write_test_shards(tmp_path / "in", shards=2, samples_per_shard=50, size=(30, 40))
    large = dataclasses.replace(
        config, crops=(CropFamily(size=64, num=2, scale=(0.3, 1.0)),), when_idle="replay",
        learner=LearnerConfig(queue=QueueConfig(length=80)),
    )  # fmt: skip
    checks = {check.name: check for check in read(large, tmp_path / "in")[0]}
    assert "pictures of 30 px" in checks["small_pictures"].text
    assert "crops of 64 px" in checks["small_pictures"].text
    about = int(checks["queue_length"].text.split("holds about ")[1].split()[0])
    assert 90 < about < 130, "of 100"
    # A stream that grows has no number of images; a short queue is right anywhere.
    for fine in (
        dataclasses.replace(large, when_idle="wait"),
        dataclasses.replace(large, learner=LearnerConfig(queue=QueueConfig(length=30))),
    ):
        names = {check.name for check in read(fine, tmp_path / "in")[0]}
        assert names == {"source", "small_pictures"}


CRASH = """
import os, resource, streams.ingest as m
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
m.empty_crops = lambda *_: os.abort()
"""
HANG = "import time, streams.ingest as m\nm.empty_crops = lambda *_: time.sleep(60)\n"


@pytest.mark.parametrize(
    ("custom", "expected"),
    [(CRASH, "was killed by SIGABRT. The run lives with that"),
     (HANG, "did not end within 2 s: is the storage slow"),
     ("raise SystemExit('no reader here')", "failed: SystemExit: no reader here")],
)  # fmt: skip
def test_a_reader_that_dies_or_hangs_is_a_warning_and_nothing_worse(
    config, tmp_path, monkeypatch, custom, expected
):
    write_test_shards(tmp_path / "in", shards=1, samples_per_shard=3)
    (tmp_path / "sitecustomize.py").write_text(custom)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    effort = dataclasses.replace(AT_START, seconds=1.0)
    (check,), rate = read(config, tmp_path / "in", effort, hanging_s=1.0)
    assert (check.level, rate) == ("warning", None)
    assert expected in check.text


def test_the_newest_and_the_oldest_shard_are_looked_into_first(tmp_path):
    paths = [tmp_path / f"{i:02d}.tar" for i in range(11)]
    for position, path in enumerate(paths):
        path.touch()
        os.utime(path, (position, position))
    names = [path.rsplit("/")[-1] for path in choose([str(p) for p in paths], 3)]
    assert names == ["10.tar", "00.tar", "05.tar"]
    missing = [str(tmp_path / "gone.tar"), "\udcff.tar", str(paths[0])]
    assert choose(missing, 3) == [str(paths[0])]
