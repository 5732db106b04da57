"""What health says: a verdict and findings in words, and the values they rest on. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["unknown", "ok", "degraded", "collapsed"]
VERDICTS: tuple[Verdict, ...] = ("unknown", "ok", "degraded", "collapsed")

LEARNING_FINDINGS = (
    "embedding_collapse",
    "narrow_prototype_usage",
    "stuck_at_log_k",
    "loss_bounced_back",
    "nonfinite_steps",
    "codes_uniform",
    "codes_one_hot",
    "codes_unbalanced",
    "views_disagree",
    "dead_prototypes",
    "duplicate_prototypes",
    "prototypes_drifting",
    "low_effective_rank",
    "low_feature_rank",
    "steep_spectrum",
    "gradient_norm_jump",
    "batch_norm_gap",
    "queue_stale",
    "queue_distorts_codes",
    "few_images_per_prototype",
    "learning_rate_spent",
)
"""Signs in the learner's own numbers (`signs.py`)."""

RUN_FINDINGS = (
    "starved",
    "lagging",
    "stale_data",
    "failure_budget",
    "checkpoint_old",
    "probe_falling",
    "near_duplicates",
    "disk_filling",
)
"""Signs around the learner: is it fed, is it safe (`online_swav.run_rules`)."""

FINDING_NAMES = LEARNING_FINDINGS + RUN_FINDINGS
"""Closed set: these words are labels of metrics, and headings of docs/health.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sign that the representation, or the run around it, is unwell."""

    name: str
    """One of `FINDING_NAMES`."""
    value: float
    """What was measured."""
    healthy: str
    """The healthy range, in words and numbers."""
    remedy: str
    """What to do, naming the option to change."""
    collapse: bool = False
    """Whether this finding alone means a collapsed encoder."""
    advice: bool = False
    """Whether it leaves the verdict as it is: something to do, with weights that are well."""
    since: float = 0.0
    """When it began, unix seconds."""
    since_step: int = 0
    """Step at which it began."""
    shown: str = ""
    """The value in words, as "25 h"; empty where the number speaks for itself."""
    subject: str = ""
    """What it is about when there may be several: the name of a source. Else empty."""

    @property
    def link(self) -> str:
        """Where it is explained."""
        return f"docs/health.md#{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Verdict over all findings."""

    verdict: Verdict = "unknown"
    """`unknown` until a first window is full and the grace at the start is over."""
    findings: tuple[Finding, ...] = ()
    """What is wrong, worst first, then advice; with the verdict ok there is advice at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthValues:
    """What the learner measures of itself, over all ranks. None: not measured yet, or not at all.

    Values "of the window" are those of the last full window of `health.window_images` images;
    "smoothed" ones are running means over about 50 steps; the others are of the last inspection,
    every `health.inspect_every_steps` steps.
    """

    images: int = 0
    """Images in the window."""
    loss_ratio: float | None = None
    """Loss / log K, smoothed."""
    best_loss_ratio: float | None = None
    """Lowest value of `loss_ratio`, slowly forgotten: it rises by 0.002 a window."""
    code_entropy_ratio: float | None = None
    """Entropy of the codes / log K, smoothed: 1 when they are uniform, 0 when one-hot."""
    view_agreement_ratio: float | None = None
    """Share of images whose two codes have the same largest prototype, smoothed."""
    gradient_norm_ratio: float | None = None
    """Gradient norm over about 10 steps / over about 200, geometric means."""
    usage_perplexity_ratio: float | None = None
    """exp(entropy of the score-argmax histogram of the window) / K."""
    dead_prototype_ratio: float | None = None
    """Share of prototypes that won no image of the window."""
    effective_rank: float | None = None
    """RankMe of the embeddings of the window, in dimensions."""
    embedding_std_ratio: float | None = None
    """Root mean variance over dimensions of the window's unit embeddings, times sqrt(D)."""
    feature_rank: float | None = None
    """RankMe of the backbone's features of the window, in dimensions."""
    spectrum_alpha: float | None = None
    """Power-law decay of the eigenvalues of the features' covariance (alpha-ReQ)."""
    duplicate_prototype_ratio: float | None = None
    """Share of prototypes with a cosine above 0.975 to another one."""
    prototype_drift: float | None = None
    """1 - mean cosine of the prototypes to themselves, per 1,000 steps."""
    marginal_error_ratio: float | None = None
    """Mean |K x mass of a prototype - 1| after the last Sinkhorn iteration."""
    eval_usage_ratio: float | None = None
    """Usage perplexity of the same images in eval mode / in train mode (batch norm)."""
    queue_loss_ratio: float | None = None
    """Loss with codes by queue and batch / by the batch alone, where that has K images."""
    queue_age_steps: float | None = None
    """Mean age of the queue's embeddings, in steps."""
    queue_age_max_steps: float | None = None
    """Age of its oldest, in steps."""
    queue_cosine: float | None = None
    """Cosine of a held slice's embeddings to the same images encoded again at that age."""
    images_per_prototype: float | None = None
    """(images of a step, over about 50 steps + configured queue) / K."""
