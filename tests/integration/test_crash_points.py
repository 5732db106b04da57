"""kill -9 at every named point of the loop, in a real process; then the lineage, image by image."""

import dataclasses
import shutil
import signal
from pathlib import Path

import pytest

from online_swav.books import totals, verify
from online_swav.checkpoint import Checkpoints
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.testing import LineageReport, judge_lineage, train_in_child

EXACTLY_ONCE = {"lost": 0, "double": 0, "stray": 0}


def assert_exactly_once(run, images=90):
    assert verify(run) == []
    report = judge_lineage(run)
    assert report == LineageReport(
        trained=images, replayed=0, rolled_back=report.rolled_back, **EXACTLY_ONCE
    )
    counts = totals(run)["s"]
    assert (counts.trained, counts.samples_known, counts.uncommitted) == (images, images, 0)
    return report


@pytest.mark.parametrize(
    ("point", "rolled_back"),
    [("before_claim", 8), ("after_claim", 8), ("after_step", 16), ("after_flush", 32),
     ("after_rename", 32), ("after_publish", 0)],
)  # fmt: skip
def test_a_kill_at_a_named_point_loses_and_doubles_nothing(config, point, rolled_back):
    """Checkpoints are at steps 4, 8 and 12; the kill comes at step 6, or at the next checkpoint."""
    assert train_in_child(config, die_at=f"{point}:6") == -signal.SIGKILL
    assert train_in_child(config) == 0
    assert assert_exactly_once(Path(config.run)).rolled_back == rolled_back


def test_crash_after_crash(config):
    for point in (
        "after_step:2",
        "after_rename:4",
        "after_claim:5",
        "after_flush:8",
        "after_step:9",
    ):
        assert train_in_child(config, die_at=point) == -signal.SIGKILL
        Path(config.run).with_name("run-lineage.died").unlink()
    assert train_in_child(config) == 0
    assert_exactly_once(Path(config.run))


@pytest.mark.parametrize("damage", ["one byte", "no manifest", "no latest", "latest is gone"])
def test_a_checkpoint_damaged_by_hand(config, damage):
    """The run goes on from the one before, or finds the newest without its pointer."""
    run = Path(config.run)
    assert train_in_child(config, die_at="after_step:10") == -signal.SIGKILL
    newest = run / "checkpoints" / "step-000000008"
    if damage == "one byte":
        data = bytearray((newest / "learner.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (newest / "learner.pt").write_bytes(data)
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    elif damage == "no latest":
        (run / "checkpoints" / "latest").unlink()
    else:
        shutil.rmtree(newest)
    assert train_in_child(config) == 0
    resumed_from = 8 if damage == "no latest" else 4
    assert assert_exactly_once(run).rolled_back == 8 * (10 - resumed_from)


def test_a_clock_that_jumps_an_hour_both_ways_changes_nothing(config, monkeypatch):
    """Leases, checkpoints and reports go by the monotonic clock; wall time is for people."""
    import time

    wall, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: wall() + 3600.0 * (next(jumps) % 3 - 1))
    observed = dataclasses.replace(config, observer="online_swav.testing:LineageRecorder")
    train_in_process(observed, RecordingDesk())
    monkeypatch.undo()
    assert_exactly_once(Path(config.run))


def test_a_learner_left_over_cannot_publish(config):
    """The fence: whoever began last owns the folder, and a resume sees that it was outrun."""
    from online_swav.errors import SupersededError

    run = Path(config.run)
    checkpoints = Checkpoints(run, keep=3)

    class SecondLearner:
        """Starts while the first one is between flush and rename."""

        def __init__(self, **_):
            pass

        def at(self, point, *, step, **_):
            if point == "after_flush" and step == 8:
                checkpoints.fence(99, resumed=checkpoints.latest())

    import sys
    import types

    module = types.ModuleType("second_learner")
    module.SecondLearner = SecondLearner
    sys.modules["second_learner"] = module
    try:
        observed = dataclasses.replace(config, observer="second_learner:SecondLearner")
        with pytest.raises(SupersededError, match="belongs to generation 99"):
            train_in_process(observed, RecordingDesk())
    finally:
        del sys.modules["second_learner"]
    assert checkpoints.latest().manifest.step == 4
    with pytest.raises(SupersededError, match="another checkpoint"):
        checkpoints.fence(100, resumed=None)
