"""The signs of a representation that is unwell: a table of rules over the learner's own numbers.

Limits are calibrated on runs that were broken on purpose and on healthy ones
(`benchmarks/health_runs.py`); what each finding means and what to do is in docs/health.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from online_swav.learning.findings import Finding, Health, HealthValues, Verdict
from online_swav.learning.rules import Judge, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the rules read."""

    values: HealthValues
    step: int
    """Steps made."""
    settled_step: int
    """Step from which nothing is on its way any more: warm-up, freeze, ramps."""
    stuck_after_steps: int
    """Grace: the start lasts at least so long, and loss = log K waits as long after it settled."""
    fresh_window: bool
    """Whether a window was filled since the learner started: none that a checkpoint brought."""
    num_prototypes: int
    """K."""
    embedding_dim: int
    """D."""
    feature_dim: int
    """F."""
    recent_nonfinite: int
    """Updates skipped for a non-finite loss in the last 1,000 steps."""
    lr: float
    """Rate of the next update, by the schedule alone."""
    peak_lr: float
    """Rate after the warm-up, as configured."""
    schedule_ended: bool
    """Whether a schedule with an end has come to it."""


def _past_start(signals: Signals) -> bool:
    return signals.step > max(signals.settled_step, signals.stuck_after_steps)


def _past_grace(signals: Signals) -> bool:
    return signals.step > signals.settled_step + signals.stuck_after_steps


def _collapsing(signals: Signals) -> bool:
    """Whether signs of collapse are to be acted upon."""
    return _past_start(signals) and signals.fresh_window


def _value(name: str) -> Callable[[Signals], float | None]:
    return lambda signals: getattr(signals.values, name)


def _bounce(signals: Signals) -> float | None:
    loss, best = signals.values.loss_ratio, signals.values.best_loss_ratio
    return None if loss is None or best is None else loss - best


def _queue_effect(signals: Signals) -> float | None:
    """By how much the queue changes the loss, either way: a wrong one may lower it as well."""
    ratio = signals.values.queue_loss_ratio
    return max(ratio, 1 / ratio) if ratio else None


def _images_per_prototype(signals: Signals) -> float:
    """N images cannot use more than n prototypes."""
    return signals.values.images / signals.num_prototypes


def _lowest_rank(signals: Signals) -> float:
    """Few prototypes need few dimensions."""
    dim = signals.embedding_dim
    return max(min(2.0, dim / 4), min(0.05 * dim, signals.num_prototypes / 4))


RULES: tuple[Rule[Signals], ...] = (
    Rule(
        name="embedding_collapse", read=_value("embedding_std_ratio"),
        unhealthy="below", limit=lambda _: 0.3,
        healthy="{limit} to 1, best near 1",
        remedy="All images look alike to the encoder: with --act.enabled the run goes back with a "
        "lower rate by itself; if it falls again, lower --learner.optim.lr.",
        collapses=lambda signals, _: _collapsing(signals),
    ),
    Rule(
        name="narrow_prototype_usage", read=_value("usage_perplexity_ratio"),
        unhealthy="below", limit=lambda s: 0.1 * min(1.0, _images_per_prototype(s)),
        healthy="above {limit}",
        remedy="Few prototypes win: raise --learner.codes.freeze-prototypes-steps, or lower "
        "--learner.model.num-prototypes.",
        collapses=lambda s, value: _collapsing(s) and value * s.num_prototypes < 1.5,
    ),
    Rule(
        name="stuck_at_log_k", read=_value("loss_ratio"),
        unhealthy="above", limit=lambda _: 0.98, margin=0.02, hold=20.0, applies=_past_grace,
        healthy="0.4 to 0.9 after the start",
        remedy="The codes are too soft to follow: lower --learner.codes.epsilon.start (0.01 to "
        "0.015 for small models), or raise --learner.codes.freeze-prototypes-steps, or lower "
        "--learner.optim.lr.",
    ),
    Rule(
        name="loss_bounced_back", read=_bounce,
        unhealthy="above", limit=lambda _: 0.1, margin=0.3, hold=50.0, applies=_past_start,
        healthy="within {limit} of its lowest value",
        remedy="It fell and came back: lower --learner.optim.lr; if the queue has just begun to "
        "count, shorten --learner.queue.length or raise --learner.queue.start-step.",
    ),
    Rule(
        name="nonfinite_steps", read=lambda s: float(s.recent_nonfinite), advice=True,
        unhealthy="above", limit=lambda _: 0.0,
        healthy="0",
        remedy="The loss was NaN or infinite: lower --learner.optim.lr, lengthen "
        "--learner.schedule.warmup-steps, or set --learner.autocast off.",
    ),
    Rule(
        name="codes_uniform", read=_value("code_entropy_ratio"),
        unhealthy="above", limit=lambda _: 0.95, margin=0.02, hold=20.0, applies=_past_start,
        healthy="0.05 to {limit}",
        remedy="The codes say nothing: lower --learner.codes.epsilon.start and .end.",
    ),
    Rule(
        name="codes_one_hot", read=_value("code_entropy_ratio"),
        unhealthy="below", limit=lambda _: 0.05, hold=20.0, applies=_past_start,
        healthy="{limit} to 0.95",
        remedy="The codes are hard assignments, which amplify every error: raise "
        "--learner.codes.epsilon.start and .end.",
    ),
    Rule(
        name="codes_unbalanced", read=_value("marginal_error_ratio"),
        unhealthy="above", limit=lambda _: 1.2, applies=_past_start,
        healthy="under {limit}",
        remedy="Sinkhorn does not reach equal shares: raise --learner.codes.iterations, or "
        "--learner.codes.epsilon.end.",
    ),
    Rule(
        name="views_disagree", read=_value("view_agreement_ratio"),
        unhealthy="below", limit=lambda s: min(0.1, 5 / s.num_prototypes), hold=50.0,
        applies=_past_grace,
        healthy="above {limit}, later 0.3 to 0.8",
        remedy="Two crops of an image get different codes: is there more than one kind of image in "
        "the stream? Soften the crops (--crops.0.scale) "
        "and --learner.augment.jitter, or lower --learner.optim.lr.",
    ),
    Rule(
        name="dead_prototypes", read=_value("dead_prototype_ratio"),
        # By chance exp(-n / K) of K prototypes win none of n images.
        unhealthy="above", limit=lambda s: 0.5 + 0.5 * math.exp(-_images_per_prototype(s)),
        applies=_past_start,
        healthy="under {limit}",
        remedy="Most prototypes win no image: lower --learner.model.num-prototypes, or raise "
        "--learner.codes.freeze-prototypes-steps.",
    ),
    Rule(
        name="duplicate_prototypes", read=_value("duplicate_prototype_ratio"),
        unhealthy="above", limit=lambda _: 0.05, margin=0.2,
        healthy="under {limit}",
        remedy="Prototypes lie on each other: lower --learner.model.num-prototypes or "
        "--learner.optim.lr, or raise --learner.codes.freeze-prototypes-steps.",
    ),
    Rule(
        name="prototypes_drifting", read=_value("prototype_drift"),
        unhealthy="above", limit=lambda _: 0.5, margin=0.3, applies=_past_start,
        healthy="under {limit} per 1,000 steps",
        remedy="What a prototype means changes from step to step: lower --learner.optim.lr, or "
        "raise --learner.codes.freeze-prototypes-steps.",
    ),
    Rule(
        name="low_effective_rank", read=_value("effective_rank"),
        unhealthy="below", limit=_lowest_rank,
        healthy="above {limit} dimensions",
        remedy="The embeddings span few dimensions: lower --learner.optim.lr, or raise "
        "--learner.queue.length or --ingest.batch-size.",
    ),
    Rule(
        name="low_feature_rank", read=_value("feature_rank"),
        unhealthy="below", limit=lambda s: max(2.0, 0.01 * s.feature_dim), applies=_past_start,
        healthy="above {limit} dimensions",
        remedy="The backbone's features span few dimensions: lower --learner.optim.lr or "
        "--learner.optim.weight-decay.",
    ),
    Rule(
        name="steep_spectrum", read=_value("spectrum_alpha"),
        unhealthy="above", limit=lambda _: 3.0, hold=50.0, applies=_past_start,
        healthy="under {limit}, about 1 at its best",
        remedy="Few directions carry all of the features: lower --learner.optim.lr, or train on "
        "more varied images.",
    ),
    Rule(
        name="gradient_norm_jump", read=_value("gradient_norm_ratio"),
        unhealthy="above", limit=lambda _: 10.0, margin=0.5,
        healthy="under {limit} times its mean over about 200 steps",
        remedy="Updates have become much larger: lower --learner.optim.lr, or lengthen "
        "--learner.schedule.warmup-steps.",
    ),
    Rule(
        name="batch_norm_gap", read=_value("eval_usage_ratio"),
        unhealthy="below", limit=lambda _: 0.5, hold=100.0, applies=_past_start,
        healthy="above {limit}, best near 1",
        remedy="In eval mode the encoder uses far fewer prototypes than in training: raise "
        "--ingest.batch-size, set --learner.sync-batch-norm, or mix the stream better "
        "(--ingest.window, --ingest.open-shards).",
    ),
    Rule(
        name="queue_stale", read=_value("queue_cosine"),
        unhealthy="below", limit=lambda _: 0.7,
        healthy="above {limit}",
        remedy="The queue holds embeddings of another encoder: shorten --learner.queue.length, "
        "raise --learner.queue.start-step, or lower --learner.optim.lr.",
    ),
    Rule(
        name="queue_distorts_codes", read=_queue_effect,
        unhealthy="above", limit=lambda _: 1.3, margin=0.05,
        healthy="under {limit}, best near 1",
        remedy="The queue pushes the batch to other prototypes than its own: raise "
        "--learner.queue.start-step, or shorten --learner.queue.length.",
    ),
    Rule(
        name="few_images_per_prototype", read=_value("images_per_prototype"), advice=True,
        unhealthy="below", limit=lambda _: 0.05, hold=50.0,
        healthy="above {limit}, the official recipes keep 1.37",
        remedy="Too few images share one code problem: raise --ingest.batch-size, --learners or "
        "--learner.queue.length, or lower --learner.model.num-prototypes.",
    ),
    Rule(
        name="learning_rate_spent", read=lambda s: s.lr / s.peak_lr, advice=True,
        unhealthy="below", limit=lambda _: 0.01, applies=lambda s: s.schedule_ended,
        healthy="above {limit} of --learner.optim.lr",
        remedy="The schedule has ended and nothing is learned any more: set "
        "--learner.schedule.kind hold and --learner.schedule.total-steps None, or a higher "
        "--learner.schedule.final-lr.",
    ),
)  # fmt: skip


class LearningJudge:
    """Verdict and findings about a learner, from report to report."""

    def __init__(self) -> None:
        self._judge = Judge(RULES)

    def judge(self, signals: Signals, *, now: float) -> Health:
        """The verdict; call it at every report, since findings depend on what was before.

        Args:
            signals: The numbers now.
            now: Unix seconds.
        """
        found: tuple[Finding, ...] = self._judge.judge(
            signals, at=float(signals.step), now=now, step=signals.step
        )
        verdict: Verdict
        if any(finding.collapse for finding in found):
            verdict = "collapsed"
        elif not all(finding.advice for finding in found):
            verdict = "degraded"
        else:
            known = signals.values.usage_perplexity_ratio is not None
            verdict = "ok" if known and _past_start(signals) else "unknown"
        return Health(verdict=verdict, findings=found)
