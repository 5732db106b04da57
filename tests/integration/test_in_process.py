"""The same run in one process: bitwise resume, limits, damage, the book lost and rebuilt."""

import dataclasses
from pathlib import Path

import pytest
import torch

from online_swav.books import rebuild, totals, verify
from online_swav.checkpoint import Checkpoints
from online_swav.config import CheckpointConfig
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.learner import Learner


def weights(run):
    return Checkpoints(run, keep=3).latest().learner_state()


def flatten(state, path=""):
    if isinstance(state, dict):
        for name, value in state.items():
            yield from flatten(value, f"{path}.{name}")
    else:
        yield path, state


def test_the_stream_ends_with_every_sample_trained_once(config, tmp_path):
    desk = RecordingDesk()
    reason = train_in_process(config, desk)
    assert "stream has ended" in reason
    counts = totals(tmp_path / "run")["s"]
    assert (counts.trained, counts.samples_known, counts.uncommitted) == (90, 90, 0)
    assert desk.reports[-1].samples_seen == 90
    assert desk.reports[-1].state == "stopped"
    assert desk.checkpoints[-1].step == desk.reports[-1].step == 12
    assert verify(tmp_path / "run") == []


def test_a_stop_and_a_resume_train_every_sample_once(config, tmp_path):
    for limit in (3, 7, None):
        train_in_process(dataclasses.replace(config, stop_after_steps=limit), RecordingDesk())
        assert verify(tmp_path / "run") == []
    counts = totals(tmp_path / "run")["s"]
    assert (counts.trained, counts.samples_known) == (90, 90)


def test_the_host_may_wait_while_a_gpu_is_busy(config, monkeypatch):
    """Only time in which the device had nothing to do counts as waiting."""
    monkeypatch.setattr(Learner, "idle_s", property(lambda _learner: 0.0))
    desk = RecordingDesk()
    train_in_process(dataclasses.replace(config, stop_after_steps=2, report_every_s=1e-9), desk)
    assert desk.reports[-1].phase_s["wait"] > 0
    assert {report.wait_ratio for report in desk.reports} == {0.0}


def test_a_crash_forgets_what_the_weights_forgot(config, tmp_path):
    class Crash(Exception):
        pass

    def crash(status):
        if status.step >= 6:
            raise Crash

    fast = dataclasses.replace(config, report_every_s=1e-9)
    with pytest.raises(Crash):
        train_in_process(fast, RecordingDesk(on_report=crash))
    before = totals(tmp_path / "run")["s"]
    assert before.trained >= 48
    assert before.uncommitted >= 16, "claims above the checkpoint of step 4"
    train_in_process(config, RecordingDesk())
    counts = totals(tmp_path / "run")["s"]
    assert (counts.trained, counts.uncommitted) == (90, 0)
    assert verify(tmp_path / "run") == []


def test_the_same_run_twice_gives_the_same_weights(config, tmp_path):
    train_in_process(config, RecordingDesk())
    again = dataclasses.replace(config, run=str(tmp_path / "again"))
    train_in_process(again, RecordingDesk())
    one, two = (dict(flatten(weights(tmp_path / name))) for name in ("run", "again"))
    assert one.keys() == two.keys()
    for path, value in one.items():
        same = torch.equal(value, two[path]) if torch.is_tensor(value) else value == two[path]
        assert same, path


def test_the_stream_has_not_ended_while_a_tar_settles(config, tmp_path):
    (tmp_path / "in" / "cut.tar").write_bytes(b"x" * 1000)
    slow = dataclasses.replace(config.discovery, settle_s=5.0)
    train_in_process(dataclasses.replace(config, discovery=slow), RecordingDesk())
    assert totals(tmp_path / "run")["s"].shards == {
        "unread": 0, "leased": 0, "delivered": 0, "done": 3, "quarantined": 1
    }  # fmt: skip


def test_replay_goes_on_until_the_limit(config, tmp_path):
    config = dataclasses.replace(config, when_idle="replay", stop_after_samples=200)
    train_in_process(config, RecordingDesk())
    counts = totals(tmp_path / "run")["s"]
    assert counts.trained == 90
    assert counts.trained + counts.replayed >= 200


def test_a_lost_book_is_rebuilt_from_the_checkpoints(config, tmp_path):
    train_in_process(dataclasses.replace(config, stop_after_steps=6), RecordingDesk())
    run = tmp_path / "run"
    before = totals(run)["s"]
    for path in run.glob("ledger.sqlite*"):
        path.unlink()
    train_in_process(config, RecordingDesk())
    after = totals(run)["s"]
    assert before.trained == 48
    assert (after.trained, after.samples_known) == (90, 90)
    assert verify(run) == []


def test_a_lost_book_is_rebuilt_from_a_copy_and_the_deltas_above_it(config, monkeypatch):
    run = Path(config.run)
    monkeypatch.setattr("online_swav.lineage.LEAST_DELTA_BYTES", 1)
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(every_steps=2, keep=1))
    train_in_process(dataclasses.replace(config, stop_after_steps=7), RecordingDesk())
    copies = list((run / "ledger_deltas").glob("base-*"))
    assert copies
    for path in run.glob("ledger.sqlite*"):
        path.unlink()
    assert "from the copy of step" in rebuild(run)
    assert verify(run) == []
    assert totals(run)["s"].trained == 56
    train_in_process(config, RecordingDesk())
    after = totals(run)["s"]
    assert (after.trained, after.samples_known, verify(run)) == (90, 90, [])


def test_the_probe_runs_at_the_start_and_at_the_end(config, tmp_path):
    place = (str(tmp_path / "in"),)
    desk = RecordingDesk()
    train_in_process(dataclasses.replace(config, probe_train=place, probe_test=place), desk)
    assert [probe.step for probe in desk.probes] == [0, 12]
    assert all(0 <= probe.knn_accuracy <= 1 for probe in desk.probes)
