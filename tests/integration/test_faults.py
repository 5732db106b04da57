"""Every process killed, frozen or out of disk, on a real Ray; then the lineage, image by image.

Slow: `make test-chaos`. The points of the loop are also covered by `test_crash_points.py`, in
seconds.
"""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from streams.testing import truncate, write_test_shards

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(400)]

IMAGES = 320


@pytest.fixture
def filled(run):
    write_test_shards(run.source, shards=4, samples_per_shard=80, seed=0)
    return run


def trained(run, count):
    return lambda: run.books().trained >= count


@pytest.mark.parametrize(
    ("point", "rank"),
    [("before_claim", 1), ("after_claim", 1), ("after_step", 0), ("after_flush", 0),
     ("after_rename", 0)],
)  # fmt: skip
def test_a_rank_dies_at_a_named_point(filled, point, rank):
    filled.start("--learners", "2", "--when-idle", "stop",
                 SWAV_DIE_AT=f"{point}:4", SWAV_DIE_RANK=str(rank))  # fmt: skip
    assert filled.process.wait(timeout=200) == 0, filled.output()[-4000:]
    filled.assert_exactly_once(IMAGES)
    assert filled.status()["learner_restarts"] == 1


def test_two_ranks_then_one_then_three(filled):
    filled.start("--learners", "2")
    filled.wait_until(trained(filled, 96))
    for learner in filled.processes("TrainWorker"):
        learner.kill()
    filled.wait_until(lambda: filled.status()["learner_restarts"] == 1)
    filled.kill_tree()
    filled.start("--learners", "1")
    filled.wait_until(lambda: filled.step() > 0 and filled.books().trained >= 160)
    filled.kill_tree()
    filled.finish("--learners", "3")
    filled.assert_exactly_once(IMAGES)
    assert filled.status()["learner"]["ranks"] == 3


@pytest.mark.parametrize("name", ["LedgerActor", "StatusActor"])
def test_a_killed_actor_is_started_again_by_ray(filled, name):
    filled.start("--when-idle", "stop")
    filled.wait_until(trained(filled, 48))
    (actor,) = filled.processes(name)
    actor.kill()
    assert filled.process.wait(timeout=200) == 0, filled.output()[-4000:]
    filled.assert_exactly_once(IMAGES)


def test_the_driver_alone_is_killed(filled):
    filled.start()
    filled.wait_until(trained(filled, 64))
    ours = [
        (process, name) for name in ("IngestActor", "TrainWorker", "LedgerActor", "StatusActor")
        for process in filled.processes(name)
    ]  # fmt: skip
    assert len(ours) == 4
    filled.process.kill()
    filled.process.wait(timeout=30)
    filled.finish()
    filled.assert_exactly_once(IMAGES)
    # Ray's own agents of the dead node stay; everything that reads, trains or writes is gone.
    assert not [name for p, name in ours if p.is_running() and p.status() != "zombie"]


def test_a_reader_stopped_past_its_lease_changes_nothing_when_it_wakes_up(filled):
    filled.start("--ingest", "2", "--when-idle", "stop")
    filled.wait_until(trained(filled, 32))
    zombie = filled.processes("IngestActor")[0]
    zombie.send_signal(signal.SIGSTOP)
    time.sleep(6)  # the lease is 4 s
    zombie.send_signal(signal.SIGCONT)
    assert filled.process.wait(timeout=200) == 0, filled.output()[-4000:]
    filled.assert_exactly_once(IMAGES)


def test_a_reader_that_hangs_is_replaced(filled):
    filled.start("--when-idle", "stop")
    filled.wait_until(trained(filled, 32))
    (hung,) = filled.processes("IngestActor")
    hung.send_signal(signal.SIGSTOP)
    try:
        assert filled.process.wait(timeout=200) == 0, filled.output()[-4000:]
    finally:
        with contextlib.suppress(Exception):
            hung.kill()
    assert filled.status()["ingest_restarts"] == 1
    filled.assert_exactly_once(IMAGES)


def test_a_second_run_on_the_folder_is_refused(filled):
    filled.start()
    filled.wait_until(lambda: filled.step() >= 1)
    first = filled.process
    filled.start()
    assert filled.process.wait(timeout=60) == 2
    assert f"is in use by process {first.pid}" in filled.output()
    filled.process = first
    assert filled.stop() == 0


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of its own that can be filled; skipped where one may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, *, leave=0):
    """Take all space of the disk but `leave` bytes; the file to delete."""
    filler = folder / "filler"
    free = os.statvfs(folder)
    with filler.open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(free.f_bavail * free.f_frsize - leave, 0)))
        file.flush()
    return filler


def ends_saying(run, *words):
    assert run.process.wait(timeout=240) == 1, run.output()[-4000:]
    last = run.output().splitlines()[-1]
    assert all(word in last for word in words), last
    assert "Traceback" not in run.output()


def test_the_disk_is_full_while_checkpointing(filled):
    with small_disk(filled.folder / "checkpoints", 400):
        filled.start()
        filled.wait_until(lambda: (filled.status().get("checkpoint") or {}).get("step", 0) >= 5)
        filler = fill(filled.folder / "checkpoints", leave=2**20)
        filled.process.send_signal(signal.SIGINT)
        ends_saying(filled, "cannot write checkpoint", "Make room")
        filler.unlink()
        filled.finish()
        filled.assert_exactly_once(IMAGES)


def test_the_disk_is_full_in_the_ledger(filled):
    run = filled.folder
    with small_disk(run, 30), small_disk(run / "checkpoints", 600):
        filled.start()
        filled.wait_until(trained(filled, 48))
        filler = fill(run)
        ends_saying(filled, "cannot write the ledger", "make room")
        filler.unlink()
        filled.finish()
        filled.assert_exactly_once(IMAGES)


def test_the_disk_is_full_while_quarantining(filled):
    late = filled.source.parent / "late"
    (cut,) = write_test_shards(late, shards=1, samples_per_shard=40, seed=1)
    truncate(cut, cut.stat().st_size // 2)
    with small_disk(filled.folder / "quarantine", 1):
        filler = fill(filled.folder / "quarantine")
        filled.start()
        filled.wait_until(trained(filled, 48))
        cut.rename(filled.source / "cut.tar")
        ends_saying(filled, "quarantine", "make room")
        filler.unlink()
        filled.finish()
        filled.assert_exactly_once(filled.books().trained)
        assert filled.books().dropped["truncated"] == 1
