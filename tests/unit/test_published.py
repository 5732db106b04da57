"""`published/`: whole folders, a pointer, the newest by time."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from online_swav.errors import CheckpointError
from online_swav.published import Published


def test_the_newest_encoder_is_whole_and_pointed_at(tmp_path):
    published = Published(tmp_path, keep=2)
    assert published.newest() is None
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    encoder = published.publish(net, step=5, card={"verdict": "ok"})
    assert published.newest() == encoder
    tensors = load_file(encoder.path / "backbone.safetensors")
    assert tensors.keys() == net.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in net.state_dict().items())
    card = json.loads((encoder.path / "card.json").read_text())
    assert (card["step"], card["verdict"]) == (5, "ok")


def test_old_ones_go_by_time_since_a_rollback_lowers_the_step(tmp_path):
    published, net = Published(tmp_path, keep=2), nn.Linear(2, 2)
    for now, step in enumerate((10, 20, 15)):
        path = published.publish(net, step=step, card={}).path
        os.utime(path, (now, now))
    published.publish(net, step=16, card={})
    names = {path.name for path in (tmp_path / "published").glob("step-*")}
    assert names == {"step-000000015", "step-000000016"}
    assert published.newest().step == 16


def test_a_disk_that_refuses_leaves_the_one_before(tmp_path):
    published, net = Published(tmp_path, keep=2), nn.Linear(2, 2)
    published.publish(net, step=1, card={})
    (tmp_path / "published" / ".step-000000002").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot publish the encoder of step 2"):
        published.publish(net, step=2, card={})
    assert published.newest().step == 1


def test_the_one_just_published_stays_whatever_the_clock_says(tmp_path):
    published, net = Published(tmp_path, keep=1), nn.Linear(2, 2)
    old = published.publish(net, step=1, card={}).path
    os.utime(old, (2**33, 2**33))  # of a clock that has been set back since
    newest = published.publish(net, step=2, card={})
    assert [path.name for path in (tmp_path / "published").glob("step-*")] == ["step-000000002"]
    assert published.newest() == newest


def test_more_may_be_kept_than_there_are(tmp_path):
    published, net = Published(tmp_path, keep=9), nn.Linear(2, 2)
    for step in (1, 2, 3, 4):
        published.publish(net, step=step, card={})
    assert len(list((tmp_path / "published").glob("step-*"))) == 4


def test_what_a_killed_process_left_goes_away(tmp_path):
    published, net = Published(tmp_path, keep=2), nn.Linear(2, 2)
    published.publish(net, step=1, card={})
    (tmp_path / "published" / ".step-000000002").mkdir()
    published.publish(net, step=3, card={})
    assert not list((tmp_path / "published").glob(".step-*"))


def test_a_damaged_pointer_is_no_run_without_encoders(tmp_path):
    published, net = Published(tmp_path, keep=2), nn.Linear(2, 2)
    published.publish(net, step=1, card={})
    (tmp_path / "published" / "latest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"latest\.json cannot be read"):
        published.newest()
    assert published.publish(net, step=2, card={}) == published.newest()


def test_an_old_one_that_cannot_be_removed_is_no_failure(tmp_path, monkeypatch, caplog):
    published, net = Published(tmp_path, keep=1), nn.Linear(2, 2)
    published.publish(net, step=1, card={})

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("online_swav.published.shutil.rmtree", lambda path, **_: refuse(path))
    assert published.publish(net, step=2, card={}).step == published.newest().step == 2
    assert "published_not_pruned" in caplog.text
