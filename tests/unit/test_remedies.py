"""Which remedy is next, what it changes, and what survives a crash."""

import pytest

from online_swav.config import ActConfig
from online_swav.errors import CheckpointError
from online_swav.events import ACTION_KINDS
from online_swav.learning.findings import Finding, Health
from online_swav.remedies import REMEDIES, Remedies, load_remedies, save_remedies

ACT = ActConfig(max_rollbacks=2, patience_steps=100, refreeze_steps=50)
OK = Health(verdict="ok")
STUCK = Health(
    verdict="degraded",
    findings=(Finding(name="stuck_at_log_k", value=1.0, healthy="", remedy=""),),
)
COLLAPSED = Health(verdict="collapsed", findings=STUCK.findings)


def test_a_healthy_run_is_left_alone():
    assert Remedies().next(OK, step=1000, act=ACT) is None
    assert Remedies().next(Health(), step=0, act=ACT) is None
    assert set(REMEDIES) < set(ACTION_KINDS)


def test_the_ladder_has_three_rungs_and_is_patient():
    now, taken = Remedies(), []
    for step in range(1000, 1600, 10):
        remedy = now.next(STUCK, step=step, act=ACT)
        if remedy is not None:
            taken.append((step, remedy))
            now = now.taken(remedy, step=step, act=ACT)
    assert taken == [(1000, "refreeze"), (1100, "epsilon"), (1200, "rate")]
    assert now.adjustments.frozen_until_step == 1050
    assert now.adjustments.epsilon_factor == ACT.epsilon_factor
    assert now.adjustments.lr_factor == ACT.lr_factor
    assert (now.counts["refreeze"], now.counts["epsilon"], now.counts["rate"]) == (1, 1, 1)


def test_the_ladder_begins_anew_only_after_a_checkpoint_that_was_healthy_for_long():
    now = Remedies().taken("refreeze", step=1000, act=ACT)
    assert now.recovered(OK, step=1050, act=ACT) == now, "free for a moment only"
    assert now.next(STUCK, step=1060, act=ACT) is None
    assert now.next(STUCK, step=1100, act=ACT) == "epsilon", "not the first rung again"
    free = now.recovered(OK, step=1100, act=ACT)
    assert free.next(STUCK, step=1101, act=ACT) == "refreeze"
    assert free.adjustments == now.adjustments, "what it changed stays"


def test_collapse_rolls_back_until_it_gives_up():
    now = Remedies()
    for _ in range(ACT.max_rollbacks):
        assert now.next(COLLAPSED, step=500, act=ACT) == "rollback"
        now = now.taken("rollback", step=500, act=ACT)
    assert now.next(COLLAPSED, step=500, act=ACT) == "give_up"
    assert now.adjustments.lr_factor == ACT.lr_factor**2


def test_a_healthy_checkpoint_beyond_the_fall_forgives_it():
    fallen = Remedies().taken("rollback", step=500, act=ACT)
    assert fallen.recovered(OK, step=500, act=ACT).rollbacks == 1
    assert fallen.recovered(COLLAPSED, step=900, act=ACT).rollbacks == 1
    assert fallen.recovered(STUCK, step=900, act=ACT).rollbacks == 0, "unwell, but not collapsed"
    forgiven = fallen.recovered(OK, step=501, act=ACT)
    assert forgiven.rollbacks == 0
    assert forgiven.adjustments.lr_factor == ACT.lr_factor, "the rate stays low"


def test_a_freeze_lasts_as_long_from_where_the_run_goes_back_to():
    frozen = Remedies().taken("refreeze", step=1000, act=ACT)
    back = frozen.taken("rollback", step=1010, act=ACT).at(600)
    assert back.adjustments.frozen_until_step == 600 + 40
    thawed = frozen.taken("rollback", step=2000, act=ACT).at(600)
    assert thawed.adjustments.frozen_until_step == 0


def test_a_run_that_may_not_act_does_not():
    off = ActConfig(enabled=False)
    assert Remedies().next(COLLAPSED, step=500, act=off) is None
    assert Remedies().after_failure(off) is None


def test_remedies_survive_on_disk_and_damage_is_named(tmp_path):
    assert load_remedies(tmp_path) == Remedies()
    changed = Remedies().taken("rollback", step=7, act=ACT).at(3).counted("skip", 4)
    save_remedies(tmp_path, changed)
    assert load_remedies(tmp_path) == changed
    (tmp_path / "remedies.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"remedies\.json is damaged"):
        load_remedies(tmp_path)
