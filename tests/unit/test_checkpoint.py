"""A checkpoint exists only when whole; a damaged one is set aside by name."""

import json

import pytest
import torch

from online_swav.checkpoint import Checkpoints
from online_swav.errors import CheckpointError
from online_swav.lineage import Lineage
from streams.ledger_delta import Delta


def publish(checkpoints, step, parent=-1):
    return checkpoints.publish(
        step=step, samples_seen=step * 4, parent_step=parent, created_at=1.0, verdict="ok",
        probes=({"step": step, "measured_at": 1.0, "knn_accuracy": 0.5},),
        learner_state={"weights": torch.full((3,), float(step))},
        delta=Delta(step=step, parent_step=parent, version=step, shards=(), claims=(), rejects=(),
                    skips=()),
        config_yaml="seed: 0\n", generation=1,
    )  # fmt: skip


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.fence(1, resumed=None)
    return checkpoints


def test_a_new_run_has_none(checkpoints):
    assert checkpoints.latest() is None
    assert checkpoints.prune() == -1


def test_what_is_published_comes_back(checkpoints):
    publish(checkpoints, 10)
    publish(checkpoints, 20, parent=10)
    newest = checkpoints.latest()
    assert newest.manifest.step == 20
    assert newest.learner_state()["weights"].tolist() == [20.0] * 3
    assert newest.manifest.probes[0]["knn_accuracy"] == 0.5
    assert newest.size_bytes > 0


def test_old_ones_go_and_leave_their_deltas(checkpoints, tmp_path):
    for step, parent in ((1, -1), (2, 1), (3, 2), (4, 3)):
        publish(checkpoints, step, parent)
    assert checkpoints.prune() == 3
    assert [d.step for d in Lineage(tmp_path).walk(checkpoints.latest())] == [4, 3, 2, 1]
    (tmp_path / "ledger_deltas" / "step-000000002.json").unlink()
    with pytest.raises(CheckpointError, match="delta of step 2 cannot be read"):
        list(Lineage(tmp_path).walk(checkpoints.latest()))


@pytest.mark.parametrize("damage", ["flip", "no manifest", "no learner", "format"])
def test_a_damaged_one_is_set_aside_and_the_one_before_taken(checkpoints, damage, caplog):
    publish(checkpoints, 1)
    path = publish(checkpoints, 2, parent=1).path
    if damage == "flip":
        file = path / "learner.pt"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "no manifest":
        (path / "manifest.json").unlink()
    elif damage == "no learner":
        (path / "learner.pt").unlink()
    else:
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    assert checkpoints.latest().manifest.step == 1
    assert path.exists(), "looking changes nothing"
    checkpoints.recover()
    assert checkpoints.latest().manifest.step == 1
    assert "checkpoint_set_aside" in caplog.text
    assert (checkpoints.folder / "damaged-step-000000002").exists()


def test_without_any_whole_one_the_run_refuses(checkpoints):
    (publish(checkpoints, 1).path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints in .* can be used: .*"):
        checkpoints.latest()


def test_one_that_never_became_the_latest_is_not_taken(checkpoints):
    publish(checkpoints, 1)
    publish(checkpoints, 2, parent=1)
    (checkpoints.folder / "latest").write_text("step-000000001\n")
    assert checkpoints.latest().manifest.step == 1
    checkpoints.recover()
    assert [p.name for p in checkpoints.folder.glob("step*")] == ["step-000000001"]


def test_a_lost_pointer_is_no_loss(checkpoints):
    publish(checkpoints, 1)
    (checkpoints.folder / "latest").unlink()
    assert checkpoints.latest().manifest.step == 1


def test_a_full_disk_leaves_nothing_half_written(checkpoints, monkeypatch):
    publish(checkpoints, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device\. Make room"):
        publish(checkpoints, 2, parent=1)
    assert [p.name for p in checkpoints.folder.glob("*step*")] == ["step-000000001"]
