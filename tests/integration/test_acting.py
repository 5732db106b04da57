"""A run that helps itself: the books stay right, and the story is told."""

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from online_swav import inprocess
from online_swav.books import rebuild, totals, verify
from online_swav.caretaker import Caretaker
from online_swav.checkpoint import Checkpoints
from online_swav.config import ActConfig, CheckpointConfig
from online_swav.encoder import Encoder
from online_swav.errors import GivenUp
from online_swav.events import read_events
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.findings import Finding, Health
from online_swav.learning.learner import Learner, NonFiniteLossError
from online_swav.remedies import load_remedies
from online_swav.testing import judge_lineage

RECORDED = "online_swav.testing:LineageRecorder"
OK = Health(verdict="ok")
COLLAPSED = Health(
    verdict="collapsed",
    findings=(Finding(name="embedding_collapse", value=0.01, healthy="0.3 to 1",
                      remedy="Lower --learner.optim.lr.", collapse=True),),
)  # fmt: skip
STUCK = Health(
    verdict="degraded",
    findings=(Finding(name="stuck_at_log_k", value=1.0, healthy="to 0.9", remedy="x"),),
)


@pytest.fixture
def spoil_from(monkeypatch):
    """`spoil_from(6)`: the steps from 6 on are NaN, while the rate is not lowered far enough."""

    def arrange(step, *, cured_below=0.0):
        prepare = Learner._prepare

        def spoiled(self, family, generator):
            images = prepare(self, family, generator)
            if self.step_count >= step and self.adjustments.lr_factor > cured_below:
                images = images * float("nan")
            return images

        monkeypatch.setattr(Learner, "_prepare", spoiled)

    return arrange


@pytest.fixture
def verdicts(monkeypatch):
    """`verdicts(f)`: the health at a step is f(step, lr_factor)."""

    def arrange(rule):
        def health(self, values=None):
            return rule(self.step_count, self.adjustments.lr_factor)

        monkeypatch.setattr(Learner, "health", health)

    return arrange


def actions(run):
    return [e for e in read_events(run) if e["event"] == "action"]


def eager(config, **act):
    """Report at every turn, checkpoint every two steps; a small backbone for small checkpoints."""
    model = dataclasses.replace(config.learner.model, backbone="shufflenet_v2_x0_5")
    return dataclasses.replace(
        config, report_every_s=1e-9, observer=RECORDED, act=ActConfig(**act),
        checkpoint=CheckpointConfig(every_steps=2),
        learner=dataclasses.replace(config.learner, model=model),
    )  # fmt: skip


def assert_books_are_right(run, images=90):
    assert verify(run) == []
    report = judge_lineage(run)
    assert (report.trained, report.lost, report.double, report.stray) == (images, 0, 0, 0)
    return report


def test_a_loss_that_stays_nan_is_rolled_back_with_a_lower_rate(config, spoil_from):
    spoil_from(6, cured_below=0.3)
    run = Path(config.run)
    train_in_process(eager(config), RecordingDesk())
    kinds = [action["kind"] for action in actions(run)]
    assert kinds.count("rollback") == 2, "half the rate was not low enough, a quarter was"
    assert "skip" in kinds
    assert load_remedies(run).adjustments.lr_factor == 0.25
    assert assert_books_are_right(run).rolled_back > 0, "those images were read again"


def test_a_run_that_stays_nan_gives_up_with_the_story(config, spoil_from):
    spoil_from(6)
    run = Path(config.run)
    with pytest.raises(
        GivenUp, match=r"given up at step \d+: loss or gradient not finite.*3 times"
    ):
        train_in_process(eager(config), RecordingDesk())
    assert [a["kind"] for a in actions(run)].count("rollback") == 3
    assert actions(run)[-1]["kind"] == "give_up"
    assert verify(run) == []


def test_a_run_that_may_not_act_ends_as_the_loss_says(config, spoil_from):
    spoil_from(6)
    with pytest.raises(NonFiniteLossError):
        train_in_process(eager(config, enabled=False), RecordingDesk())
    assert not [a for a in actions(Path(config.run)) if a["kind"] == "rollback"]


def test_collapse_goes_back_to_the_newest_healthy_checkpoint(config, verdicts):
    verdicts(lambda step, rate: COLLAPSED if step >= 7 and rate == 1 else
             STUCK if step > 4 and rate == 1 else OK)  # fmt: skip
    run = Path(config.run)
    desk = RecordingDesk()
    train_in_process(eager(config, patience_steps=1000), desk)
    (rollback,) = [a for a in actions(run) if a["kind"] == "rollback"]
    assert (rollback["step"], rollback["to_step"], rollback["lr_factor"]) == (8, 4, 0.5)
    assert "embedding_collapse" in rollback["reason"]
    assert_books_are_right(run)
    verdict = {c.manifest.step: c.manifest.verdict for c in Checkpoints(run, keep=3).whole()}
    assert "collapsed" not in verdict.values()
    assert desk.reports[-1].actions["rollback"] == 1
    latest = json.loads((run / "published" / "latest.json").read_text())
    assert latest["step"] == desk.reports[-1].step
    card = json.loads((run / "published" / latest["folder"] / "card.json").read_text())
    assert card["verdict"] == "ok"
    assert card["lineage"]["checkpoint"] == f"step-{latest['step']:09d}"
    assert card["shards_up_to"]["url"].endswith(".tar")
    assert card["preprocessing"]["size"] == config.crops[0].size
    encoder = Encoder.load(run)
    assert encoder.card["step"] == latest["step"]
    assert encoder.num_prototypes == config.learner.model.num_prototypes


def test_only_healthy_encoders_are_published(config, verdicts):
    verdicts(lambda step, _rate: OK if step <= 4 else STUCK)
    run = Path(config.run)
    train_in_process(eager(config, patience_steps=1000), RecordingDesk())
    assert json.loads((run / "published" / "latest.json").read_text())["step"] == 4
    kept = {c.manifest.step: c.manifest.verdict for c in Checkpoints(run, keep=3).whole()}
    assert kept[4] == "ok", "the newest healthy one outlives younger ones that are not"
    assert set(kept.values()) == {"ok", "degraded"}


def test_the_ladder_changes_the_recipe_step_by_step(config, verdicts):
    verdicts(lambda _step, rate: STUCK if rate == 1 else OK)
    run = Path(config.run)
    act = {"patience_steps": 2, "refreeze_steps": 3}
    train_in_process(eager(config, **act), RecordingDesk())
    told = [(a["kind"], a["epsilon_factor"], a["lr_factor"]) for a in actions(run)]
    assert told == [("refreeze", 1.0, 1.0), ("epsilon", 0.6, 1.0), ("rate", 0.6, 0.5)]
    assert_books_are_right(run)
    # It goes on with what was changed, also after a restart.
    learner, _ = inprocess.start_learner(eager(config), ranks=inprocess.SINGLE_RANK,
                                         device=torch.device("cpu"))  # fmt: skip
    Caretaker(run=run, act=config.act, learner=learner, checkpoints=Checkpoints(run, keep=3),
              rank=0, generation=9)  # fmt: skip
    assert (learner.adjustments.epsilon_factor, learner.adjustments.lr_factor) == (0.6, 0.5)


def test_a_second_fall_goes_further_back(config, verdicts):
    verdicts(lambda step, rate: COLLAPSED if step >= 7 and rate > 0.3 else OK)
    run = Path(config.run)
    train_in_process(eager(config), RecordingDesk())
    assert [a["to_step"] for a in actions(run) if a["kind"] == "rollback"] == [6, 4]
    assert_books_are_right(run)


def test_the_end_of_the_stream_is_no_end_for_a_run_that_has_to_go_back(config, verdicts):
    verdicts(lambda step, rate: COLLAPSED if step >= 12 and rate == 1 else OK)
    run = Path(config.run)
    desk = RecordingDesk()
    train_in_process(eager(config), desk)
    assert [a["kind"] for a in actions(run)] == ["rollback"]
    assert_books_are_right(run)
    assert desk.reports[-1].health == OK


def test_a_run_whose_checkpoints_are_all_collapsed_gives_up_at_once(config, verdicts):
    verdicts(lambda _step, _rate: COLLAPSED)
    run = Path(config.run)
    train_in_process(dataclasses.replace(eager(config, enabled=False), stop_after_steps=6),
                     RecordingDesk())  # fmt: skip
    assert Checkpoints(run, keep=3).latest().manifest.verdict == "collapsed"
    with pytest.raises(GivenUp, match="There is no checkpoint that it could go back to"):
        train_in_process(eager(config), RecordingDesk())
    assert [a["kind"] for a in actions(run)] == ["give_up"]


def test_a_fall_before_the_first_checkpoint_begins_anew(config, verdicts):
    verdicts(lambda step, rate: COLLAPSED if step >= 2 and rate == 1 else OK)
    run = Path(config.run)
    late = dataclasses.replace(eager(config), checkpoint=CheckpointConfig(every_steps=100))
    train_in_process(late, RecordingDesk())
    (rollback,) = actions(run)
    assert (rollback["kind"], rollback["to_step"]) == ("rollback", 0)
    assert_books_are_right(run)


def test_the_signs_of_collapse_are_no_refuge_even_where_they_are_not_called_so(config, verdicts):
    early = Health(verdict="degraded", findings=COLLAPSED.findings)
    verdicts(lambda step, rate: OK if rate < 1 or step <= 2 else
             early if step < 7 else COLLAPSED)  # fmt: skip
    run = Path(config.run)
    train_in_process(eager(config), RecordingDesk())
    assert [a["to_step"] for a in actions(run)] == [2]
    assert_books_are_right(run)


def test_a_book_lost_after_a_rollback_is_rebuilt_without_what_was_forgotten(
    config, verdicts, monkeypatch
):
    monkeypatch.setattr("online_swav.lineage.LEAST_DELTA_BYTES", 1)
    verdicts(lambda step, rate: COLLAPSED if step >= 9 and rate == 1 else
             STUCK if step > 4 and rate == 1 else OK)  # fmt: skip
    run = Path(config.run)
    keep_one = CheckpointConfig(every_steps=2, keep=1)
    changed = dataclasses.replace(eager(config, patience_steps=1000), checkpoint=keep_one)
    train_in_process(changed, RecordingDesk())
    assert [a["to_step"] for a in actions(run) if a["kind"] == "rollback"] == [4]
    with closing(sqlite3.connect(run / "ledger.sqlite")) as db:
        claims = "SELECT shard, idx, pass, step FROM claims ORDER BY 1, 2, 3"
        before = db.execute(claims).fetchall()
    counted = totals(run)["s"]
    for path in run.glob("ledger.sqlite*"):
        path.unlink()
    rebuild(run)
    with closing(sqlite3.connect(run / "ledger.sqlite")) as db:
        assert set(db.execute(claims).fetchall()) == set(before)
    assert (totals(run)["s"].trained, verify(run)) == (counted.trained, [])


def test_the_ladder_goes_on_where_it_was_after_a_restart(config, verdicts):
    verdicts(lambda _step, _rate: STUCK)
    run = Path(config.run)
    act = {"patience_steps": 3, "refreeze_steps": 3}
    for limit in (4, 8, None):
        train_in_process(dataclasses.replace(eager(config, **act), stop_after_steps=limit),
                         RecordingDesk())  # fmt: skip
    assert [a["kind"] for a in actions(run)] == ["refreeze", "epsilon", "rate"]
    assert_books_are_right(run)
