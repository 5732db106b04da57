"""RunStatus: one snapshot of stream, learner and health; what every display and metric is made of.

Rank 0 of the learner sends a `LearnerStatus`, the ledger its counts; the actor that outlives both
joins them. Plain values: no torch, no Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from online_swav.histogram import Histogram
from online_swav.learning.findings import Finding, Health, HealthValues, Verdict
from streams.counts import SourceCounts

RunState = Literal["starting", "training", "idle", "stopping", "stopped", "failed"]
RUN_STATES: tuple[RunState, ...] = (
    "starting", "training", "idle", "stopping", "stopped", "failed",
)  # fmt: skip

HISTOGRAMS: dict[str, tuple[float, ...]] = {
    "step_duration_seconds":
        (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60),
    "batch_wait_seconds": (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    "decode_duration_seconds":
        (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
    "ingest_lag_seconds": (1, 5, 15, 60, 300, 900, 3600, 10_800, 21_600, 86_400, 604_800),
}  # fmt: skip
"""Upper bounds of the buckets. Decoding (with crops) and lag count images, the others steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerStatus:
    """The last report of rank 0. Ratios lie in [0, 1] when healthy."""

    state: RunState
    """What the learner is doing; `idle` waits for images."""
    reported_at: float
    """Unix seconds."""
    step: int
    """Completed optimizer updates of the surviving weights."""
    samples_seen: int
    """Images in these updates, replays included."""
    images_per_s: float
    """Over the last report interval, all ranks."""
    wait_ratio: float
    """Share of the last report interval spent waiting for a batch."""
    step_s: float
    """Mean seconds of a step over the last report interval."""
    phase_s: dict[str, float] = field(default_factory=dict)
    """Seconds since the learner started, by phase: wait, claim, step, checkpoint, probe."""
    loss: float | None = None
    """Swapped-prediction loss, nats. None before the first step."""
    loss_ratio: float | None = None
    """Loss / log K: 1 is no learning at all."""
    code_entropy_ratio: float | None = None
    """Entropy of the codes / log K."""
    view_agreement_ratio: float | None = None
    """Share of images whose two codes have the same largest prototype."""
    grad_norm: float | None = None
    """Norm of the whole gradient before clipping or scaling."""
    embedding_std_ratio: float | None = None
    """Mean per-dimension std of unit embeddings times sqrt(D); collapse is near 0."""
    signs: HealthValues = field(default_factory=HealthValues)
    """What health rests on: windows, running means, inspections."""
    lr: float = 0.0
    """Current rate."""
    epsilon: float = 0.0
    """Current Sinkhorn epsilon."""
    temperature: float = 0.0
    """Current temperature."""
    queue_fill_ratio: float = 0.0
    """Fill of the feature queue; 0 when it is off."""
    nonfinite_steps: int = 0
    """Updates skipped for a non-finite loss, in the surviving lineage."""
    refused_images: int = 0
    """Images the ledger refused to this learner since it started (late deliveries)."""
    backlog_ratio: float = 0.0
    """Share of rank 0's requests that readers had answered before it asked; 1: they are ahead."""
    ranks: int = 1
    """Learner ranks of this generation."""
    data_age_s: float | None = None
    """Mean time since the discovery of the shards of the last step's first-time images."""
    near_duplicate_ratio: float | None = None
    """Share of near-duplicates among the images of about the last 200 batches of rank 0."""
    histograms: dict[str, Histogram] = field(default_factory=dict)
    """Since the learner started, by name (`HISTOGRAMS`); of rank 0."""
    actions: dict[str, int] = field(default_factory=dict)
    """What the run has done by itself, by kind (`events.ACTION_KINDS`), since it was created."""
    health: Health = field(default_factory=Health)
    """Verdict and findings about the representation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStatus:
    """The newest published checkpoint."""

    step: int
    published_at: float
    """Unix seconds."""
    duration_s: float
    size_bytes: int
    encoder_published_at: float | None = None
    """When its encoder went to `published/`, unix seconds; None if it was not healthy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeStatus:
    """One result of the labelled probe."""

    step: int
    measured_at: float
    """Unix seconds."""
    knn_accuracy: float
    """Top-1 of weighted k-NN on the held-out images, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Everything there is to see of a run."""

    run: str
    """Name of the run folder."""
    config_digest: str
    """Digest of the options that decide the weights."""
    started_at: float
    """Unix seconds at which this process started the run."""
    generation: int
    """Grows at every start or restart of the learner; fences late callers."""
    state: RunState
    num_prototypes: int
    """K."""
    checkpoint_every_s: float | None = None
    """Configured seconds between two checkpoints."""
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    """The books, by source name."""
    learner: LearnerStatus | None = None
    """None before the first report."""
    learner_up: bool = False
    """Whether the learner has reported lately; a dead learner's numbers are withheld."""
    checkpoint: CheckpointStatus | None = None
    checkpoints_published: int = 0
    """Published since this process started."""
    checkpoints_failed: int = 0
    """Attempts that failed since this process started."""
    probes: tuple[ProbeStatus, ...] = ()
    """Results of the probe, oldest first, of the surviving lineage."""
    learner_restarts: int = 0
    """Learner groups started again after a crash, since this process started."""
    ingest_restarts: int = 0
    """Ingest actors started again after a crash, since this process started."""
    ingest_actors: int = 0
    """Ingest actors there are now."""
    ingest_added: int = 0
    """Ingest actors added because the learner waited, since this process started."""
    ingest_removed: int = 0
    """Ingest actors removed because they were ahead, since this process started."""
    source_errors: dict[str, int] = field(default_factory=dict)
    """Failed listings by source, since this process started."""
    ledger_bytes: int = 0
    """Size of the book on disk."""
    disk_free_bytes: int | None = None
    """Free space under the run folder."""
    disk_size_bytes: int | None = None
    """Size of that disk."""
    published_step: int | None = None
    """Step of the newest healthy encoder in `published/`."""
    published_at: float | None = None
    """When it went there, unix seconds."""
    findings: tuple[Finding, ...] = ()
    """What is wrong around the learner (`learning.findings.RUN_FINDINGS`)."""
    given_up: bool = False
    """Whether the run failed because every remedy was in vain."""
    message: str = ""
    """The last thing an operator should know, in words."""

    @property
    def health(self) -> Health:
        """The learner's verdict and findings joined with the run's: worst first, then advice."""
        health = self.learner.health if self.learner is not None else Health()
        verdict: Verdict = health.verdict
        if self.findings and verdict in ("ok", "unknown"):
            verdict = "degraded"
        found = sorted(health.findings + self.findings, key=lambda f: (not f.collapse, f.advice))
        return Health(verdict=verdict, findings=tuple(found))
