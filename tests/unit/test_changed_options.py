"""A run is resumed with other options than it was started with: refused, or meant."""

import pytest

from online_swav.cli import main
from online_swav.config import RunConfig, load_yaml
from online_swav.console import Logging
from online_swav.events import read_events
from online_swav.learning.adjustments import Adjustments
from online_swav.preflight import checks
from online_swav.remedies import Remedies, load_remedies, save_remedies
from streams.testing import write_test_shards


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Starts the same run with these options; `train` itself is not run."""
    write_test_shards(tmp_path / "in", shards=1, samples_per_shard=4)

    class Session:
        def __init__(self, *_, **__):
            pass

        def run(self):
            return 0

    monkeypatch.setattr("online_swav.session.Session", Session)
    monkeypatch.setattr(Logging, "set_up", lambda _: None)
    monkeypatch.setattr(checks, "quick_checks", lambda *_: [])
    where = ["train", "--run", str(tmp_path / "run"), "--source", f"s={tmp_path / 'in'}"]
    assert main(where) == 0
    return lambda *options: main([*where, *options])


def changed(run):
    return [event["options"] for event in read_events(run) if event["event"] == "changed"]


def test_another_rate_is_refused_and_the_way_is_shown(again, tmp_path, capsys):
    assert again("--learner.optim.lr", "0.3") == 2
    errors = capsys.readouterr().err
    assert "decide the weights:\n  learner.optim.lr: 0.6 -> 0.3\n" in errors
    assert "add --change to go on from its newest checkpoint" in errors
    assert load_yaml(tmp_path / "run/config.yaml", RunConfig()).learner.optim.lr == 0.6


def test_with_change_the_run_goes_on_with_it_and_remembers(again, tmp_path):
    assert again("--learner.optim.lr", "0.3", "--change") == 0
    assert changed(tmp_path / "run") == [["learner.optim.lr: 0.6 -> 0.3"]]
    assert again() == 0, "the run's own options are the new ones"
    assert load_yaml(tmp_path / "run/config.yaml", RunConfig()).learner.optim.lr == 0.3
    assert len(changed(tmp_path / "run")) == 1


def test_a_new_rate_is_not_multiplied_by_what_the_run_made_of_the_old_one(again, tmp_path):
    run = tmp_path / "run"
    kept = Adjustments(lr_factor=0.25, epsilon_factor=0.6)
    save_remedies(run, Remedies(adjustments=kept, rollbacks=3))
    assert again("--learner.optim.weight-decay", "0.001", "--change") == 0
    assert load_remedies(run) == Remedies(adjustments=kept)
    assert again("--learner.optim.lr", "0.3", "--change") == 0
    assert load_remedies(run).adjustments == Adjustments(epsilon_factor=0.6)
    assert again("--learner.codes.epsilon.end", "0.03", "--change") == 0
    assert load_remedies(run) == Remedies()


def test_what_checkpoints_are_made_for_cannot_change(again, tmp_path, capsys):
    options = ("--learner.model.num-prototypes", "500", "--learner.optim.lr", "0.3", "--change")
    assert again(*options) == 2
    errors = capsys.readouterr().err
    assert "cannot leave:\n  learner.model.num_prototypes: 3000 -> 500\nUse those" in errors
    assert "--change" not in errors
    assert changed(tmp_path / "run") == []


def test_when_findings_are_raised_may_change_freely(again, tmp_path):
    assert again("--learner.health.stuck-after-steps", "900") == 0
    assert changed(tmp_path / "run") == []
