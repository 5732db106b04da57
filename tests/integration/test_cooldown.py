"""A copy of a run that is cooled down: the run untouched, the rate falling, the stream going on."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from online_swav.books import totals, verify
from online_swav.checkpoint import Checkpoints
from online_swav.cli import main
from online_swav.config import CheckpointConfig, ProbeConfig, RunConfig, load_yaml, to_yaml
from online_swav.cooldown import cool_down, cooled_config, prepare_copy
from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.config import ScheduleConfig


def snapshot(folder):
    """Bytes and times of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None
        )
        for path in [folder, *folder.rglob("*")]
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(module_config):
    """A run at step 6 of 12, with pruned checkpoints and a probe."""
    config = dataclasses.replace(
        module_config,
        stop_after_steps=6,
        checkpoint=CheckpointConfig(every_steps=2, keep=1),
        probe=ProbeConfig(every_steps=4, size=32, limit=30),
        probe_train=(str(Path(module_config.run).parent / "in" / "shard-000000.tar"),),
        probe_test=(str(Path(module_config.run).parent / "in" / "shard-000001.tar"),),
    )
    run = Path(config.run)
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config))
    train_in_process(config, RecordingDesk())
    return config, run


def test_a_copy_cools_down_and_the_run_is_untouched(trained, tmp_path):
    config, run = trained
    out = tmp_path / "cooled"
    known = totals(run)["s"]
    before = snapshot(run)
    what = prepare_copy(run, out, steps=5, shape="linear", when_idle="replay")
    assert (what.from_step, what.last_step) == (6, 11)
    assert totals(out)["s"].trained == known.trained == 48, "the copy's book knows"
    every = dataclasses.replace(load_yaml(out / "config.yaml", RunConfig()), report_every_s=1e-9)
    (out / "config.yaml").write_text(to_yaml(every))
    desk = RecordingDesk()
    cooled = cool_down(out, desk, say=lambda _words: None)
    assert snapshot(run) == before
    assert (cooled.step, cooled.checkpoint.name) == (11, "step-000000011")
    peak = config.learner.optim.lr
    fall = {report.step: report.lr for report in desk.reports if report.step > 6}
    assert fall == pytest.approx({7 + i: peak * (1 - i / 6) for i in range(5)})
    counts = totals(out)["s"]
    assert (counts.trained, counts.replayed) == (88, 0), "the images that the run has not trained"
    assert verify(out) == []
    assert json.loads((out / "cooldown.json").read_text())["knn_before"] == pytest.approx(
        Checkpoints(run, keep=1).latest().manifest.probes[-1]["knn_accuracy"]
    )
    assert 0 <= cooled.knn_after <= 1
    images = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    old, new = (Encoder.load(place)(images) for place in (run, cooled.checkpoint))
    assert new.shape == old.shape
    assert not torch.equal(new, old)


def test_the_stream_is_replayed_if_it_ends_before_the_rate_has_fallen(trained, tmp_path):
    _, run = trained
    prepare_copy(run, tmp_path / "cooled", steps=9, shape="sqrt", when_idle="replay")
    cooled = cool_down(tmp_path / "cooled", RecordingDesk(), say=lambda _words: None)
    assert cooled.step == 15
    assert totals(tmp_path / "cooled")["s"].replayed > 0


def test_a_cooldown_that_was_stopped_goes_on(trained, tmp_path, capsys):
    _, run = trained
    out = tmp_path / "cooled"
    command = ["cooldown", "--run", str(run), "--out", str(out), "--steps", "4"]
    prepare_copy(run, out, steps=4, shape="linear", when_idle="replay")
    asked = RecordingDesk(stop=True)
    stopped = cool_down(out, asked, say=lambda _words: None)
    assert stopped.step < 10
    assert main([*command[:-1], "5"]) == 2
    assert "begun with --steps 4" in capsys.readouterr().err
    assert main([*command, "--when-idle", "stop"]) == 2
    assert "begun with --when-idle replay" in capsys.readouterr().err
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "cooled down: 4 steps from step 6 to 10" in said
    assert "k-NN accuracy: " in said
    assert str(out / "checkpoints" / "step-000000010") in said


def test_a_checkpoint_that_is_pruned_while_it_is_copied_is_followed_by_the_newer_one(
    trained, tmp_path, monkeypatch
):
    _, run = trained
    newest = Checkpoints(run, keep=1).latest()
    gone = dataclasses.replace(newest, path=newest.path.with_name("step-000000005"))
    asked = [newest, gone]
    monkeypatch.setattr("online_swav.cooldown.newest_of", lambda _run: asked.pop())
    copytree = shutil.copytree

    def in_the_middle(source, target):
        if not source.exists():  # as copytree says it of files that go while it copies
            raise shutil.Error([(str(source), str(target), "[Errno 2] No such file or directory")])
        copytree(source, target)

    monkeypatch.setattr("online_swav.cooldown.shutil.copytree", in_the_middle)
    what = prepare_copy(run, tmp_path / "cooled", steps=4, shape="linear", when_idle="replay")
    assert (what.from_step, asked) == (6, [])


def test_one_rank_takes_as_many_images_as_all_ranks_of_the_run(trained, tmp_path):
    config, _ = trained
    several = dataclasses.replace(config, learners=3, max_learners=4)
    cooled = cooled_config(several, tmp_path, 6, steps=4, shape="linear", when_idle="wait")
    assert (cooled.learners, cooled.max_learners, cooled.ingest.batch_size) == (1, None, 24)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (ScheduleConfig(warmup_steps=500), "in the warm-up of 500 steps"),
        (ScheduleConfig(kind="cosine", warmup_steps=2, total_steps=6), "cooled down by itself"),
    ],
)
def test_a_rate_that_cannot_fall_is_refused(trained, tmp_path, schedule, says):
    config, _ = trained
    learner = dataclasses.replace(config.learner, schedule=schedule)
    with pytest.raises(ConfigError, match=says):
        cooled_config(dataclasses.replace(config, learner=learner), tmp_path, 6, steps=4,
                      shape="linear", when_idle="replay")  # fmt: skip


def test_a_falling_rate_goes_on_from_where_it_is(trained, tmp_path):
    config, _ = trained
    schedule = ScheduleConfig(kind="cosine", warmup_steps=2, total_steps=10)
    learner = dataclasses.replace(config.learner, schedule=schedule)
    config = dataclasses.replace(config, learner=learner)
    cooled = cooled_config(config, tmp_path, 6, steps=4, shape="linear", when_idle="replay")
    assert cooled.learner.optim.lr == pytest.approx(0.5 * config.learner.optim.lr)


def test_mistakes_are_one_line(trained, tmp_path, capsys):
    _, run = trained
    (tmp_path / "taken").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("seed: 0")
    for options, says in [
        (["--run", str(run), "--steps", "0"], "--steps must be at least 1"),
        (["--run", str(tmp_path), "--steps", "4"], "is no run folder"),
        (["--run", str(tmp_path / "new"), "--steps", "4"], "has no checkpoint yet"),
        (["--run", str(run), "--steps", "4", "--out", str(run)], "is the run itself"),
        (["--run", str(run), "--steps", "4", "--out", str(tmp_path / "taken")], "there already"),
    ]:
        assert main(["cooldown", *options]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert len(error.splitlines()) == 1
