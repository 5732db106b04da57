"""Healthy numbers raise no finding; each unhealthy one raises its own, and it clears again."""

import dataclasses

import pytest

from online_swav.learning.findings import FINDING_NAMES, LEARNING_FINDINGS, HealthValues
from online_swav.learning.signs import RULES, LearningJudge, Signals

HEALTHY = HealthValues(
    images=4096, loss_ratio=0.6, best_loss_ratio=0.58, code_entropy_ratio=0.3,
    view_agreement_ratio=0.5, gradient_norm_ratio=1.1, usage_perplexity_ratio=0.7,
    dead_prototype_ratio=0.02, effective_rank=40.0, embedding_std_ratio=0.95, feature_rank=200.0,
    spectrum_alpha=1.2, duplicate_prototype_ratio=0.0, prototype_drift=0.1,
    marginal_error_ratio=0.1, eval_usage_ratio=0.95, queue_loss_ratio=0.99, queue_age_steps=8.0,
    queue_age_max_steps=15.0, queue_cosine=0.97, images_per_prototype=1.4,
)  # fmt: skip

UNHEALTHY = {
    "embedding_collapse": {"embedding_std_ratio": 0.05},
    "narrow_prototype_usage": {"usage_perplexity_ratio": 0.04},
    "stuck_at_log_k": {"loss_ratio": 0.999, "best_loss_ratio": 0.995},
    "loss_bounced_back": {"loss_ratio": 0.8},
    "codes_uniform": {"code_entropy_ratio": 0.99},
    "codes_one_hot": {"code_entropy_ratio": 0.04},
    "codes_unbalanced": {"marginal_error_ratio": 1.9},
    "views_disagree": {"view_agreement_ratio": 0.01},
    "dead_prototypes": {"dead_prototype_ratio": 0.95},
    "duplicate_prototypes": {"duplicate_prototype_ratio": 0.5},
    "prototypes_drifting": {"prototype_drift": 9.0},
    "low_effective_rank": {"effective_rank": 1.5},
    "low_feature_rank": {"feature_rank": 1.5},
    "steep_spectrum": {"spectrum_alpha": 7.0},
    "gradient_norm_jump": {"gradient_norm_ratio": 60.0},
    "batch_norm_gap": {"eval_usage_ratio": 0.2},
    "queue_stale": {"queue_cosine": 0.3},
    "queue_distorts_codes": {"queue_loss_ratio": 1.4},
    "few_images_per_prototype": {"images_per_prototype": 0.01},
}


def signals(step, *, values=HEALTHY, **over):
    numbers = {
        "settled_step": 0, "stuck_after_steps": 500, "fresh_window": True, "num_prototypes": 300,
        "embedding_dim": 128, "feature_dim": 512, "recent_nonfinite": 0, "lr": 0.1, "peak_lr": 0.1,
        "schedule_ended": False,
    }  # fmt: skip
    return Signals(values=values, step=step, **(numbers | over))


def names(health):
    return [finding.name for finding in health.findings]


def test_the_table_of_rules_is_the_closed_set():
    assert sorted(rule.name for rule in RULES) == sorted(LEARNING_FINDINGS)
    assert set(LEARNING_FINDINGS) < set(FINDING_NAMES)
    for rule in RULES:
        assert "--" in rule.remedy, f"{rule.name}: the remedy names no option"


@pytest.mark.parametrize("num_prototypes", [4, 8, 64, 300, 3000])
def test_a_healthy_learner_raises_none_for_any_k(num_prototypes):
    judge = LearningJudge()
    for step in range(600, 1000, 50):
        health = judge.judge(signals(step, num_prototypes=num_prototypes), now=0.0)
    assert (health.verdict, health.findings) == ("ok", ())


def test_nothing_measured_accuses_nobody():
    health = LearningJudge().judge(signals(1000, values=HealthValues()), now=0.0)
    assert (health.verdict, health.findings) == ("unknown", ())


@pytest.mark.parametrize(("name", "values"), UNHEALTHY.items(), ids=UNHEALTHY.keys())
def test_an_unhealthy_number_raises_its_finding_alone_and_clears_with_it(name, values):
    judge = LearningJudge()
    bad = dataclasses.replace(HEALTHY, **values)
    for step in range(600, 800, 10):
        health = judge.judge(signals(step, values=bad), now=float(step))
    assert names(health) == [name]
    (finding,) = health.findings
    assert health.verdict == ("ok" if finding.advice else
                              "collapsed" if finding.collapse else "degraded")  # fmt: skip
    assert finding.since == finding.since_step == 600
    assert finding.link == f"docs/health.md#{name}"
    assert "{" not in finding.healthy
    for step in range(800, 1000, 10):
        health = judge.judge(signals(step), now=0.0)
    assert health.verdict == "ok"


def test_advice_is_told_and_leaves_the_verdict():
    skipped = LearningJudge().judge(signals(1000, recent_nonfinite=2), now=0.0)
    assert (skipped.verdict, names(skipped)) == ("ok", ["nonfinite_steps"])
    spent = LearningJudge().judge(signals(1000, lr=0.0, schedule_ended=True), now=0.0)
    assert (spent.verdict, names(spent)) == ("ok", ["learning_rate_spent"])
    assert LearningJudge().judge(signals(1000, lr=0.0), now=0.0).findings == ()


def test_a_slow_starter_is_given_time():
    """The official recipe freezes its prototypes for 5,005 steps, and stays at log K meanwhile."""
    judge = LearningJudge()
    bad = dataclasses.replace(
        HEALTHY, loss_ratio=0.999, best_loss_ratio=0.99, code_entropy_ratio=0.97,
        view_agreement_ratio=0.001,
    )  # fmt: skip
    for step in range(0, 5000, 100):
        assert judge.judge(signals(step, values=bad, settled_step=5005), now=0.0).findings == ()
    for step in range(5100, 6000, 100):
        late = judge.judge(signals(step, values=bad, settled_step=5005), now=0.0)
    assert names(late) == ["stuck_at_log_k", "codes_uniform", "views_disagree"]


def test_a_window_that_a_checkpoint_brought_is_no_collapse():
    bad = dataclasses.replace(HEALTHY, embedding_std_ratio=0.05)
    old = LearningJudge().judge(signals(1000, values=bad, fresh_window=False), now=0.0)
    assert old.verdict == "degraded"
    assert LearningJudge().judge(signals(1000, values=bad), now=0.0).verdict == "collapsed"


def test_only_collapse_is_called_collapse_and_not_at_the_start():
    bad = dataclasses.replace(
        HEALTHY, embedding_std_ratio=0.05, usage_perplexity_ratio=1 / 300, loss_ratio=1.0
    )
    judge = LearningJudge()
    early = judge.judge(signals(400, values=bad), now=0.0)
    assert early.verdict == "degraded"
    late = judge.judge(signals(600, values=bad), now=0.0)
    assert late.verdict == "collapsed"
    assert names(late)[:2] == ["embedding_collapse", "narrow_prototype_usage"]
    assert all(finding.collapse for finding in late.findings[:2])


def test_a_number_that_dances_around_its_limit_is_one_finding():
    judge = LearningJudge()
    raised = []
    for step in range(600, 1200, 10):
        dancing = dataclasses.replace(
            HEALTHY, best_loss_ratio=0.95, loss_ratio=0.985 if step // 10 % 2 else 0.975
        )
        raised.append(names(judge.judge(signals(step, values=dancing), now=0.0)))
    assert raised == [[]] * len(raised)  # never beyond for as long as it must
    stuck = dataclasses.replace(HEALTHY, best_loss_ratio=0.95, loss_ratio=0.99)
    for step in range(1200, 1300, 10):
        health = judge.judge(signals(step, values=stuck), now=0.0)
    assert names(health) == ["stuck_at_log_k"]
    since = health.findings[0].since_step
    for step in range(1300, 1600, 10):
        dancing = dataclasses.replace(
            HEALTHY, best_loss_ratio=0.95, loss_ratio=0.985 if step // 10 % 2 else 0.975
        )
        health = judge.judge(signals(step, values=dancing), now=0.0)
        assert [f.since_step for f in health.findings] == [since]


def test_more_prototypes_than_images_in_the_window_are_no_finding():
    few = dataclasses.replace(
        HEALTHY, images=100, usage_perplexity_ratio=0.03, dead_prototype_ratio=0.968
    )
    health = LearningJudge().judge(signals(1000, values=few, num_prototypes=3000), now=0.0)
    assert health.verdict == "ok"
