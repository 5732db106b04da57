"""RunStatus: one snapshot of stream, learner and health; what every display and metric is made of.

Rank 0 of the learner sends a `LearnerStatus`, the ledger its counts; the actor that outlives both
joins them. Plain values: no torch, no Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from online_swav.learning.findings import Health
from streams.counts import SourceCounts

RunState = Literal["starting", "training", "idle", "stopping", "stopped", "failed"]
RUN_STATES: tuple[RunState, ...] = (
    "starting", "training", "idle", "stopping", "stopped", "failed",
)  # fmt: skip


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
    effective_rank: float | None = None
    """RankMe of the embeddings over a window, in dimensions."""
    usage_perplexity_ratio: float | None = None
    """Perplexity of the score-argmax histogram over a window / K."""
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
    health: Health = field(default_factory=Health)
    """Verdict and findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStatus:
    """The newest published checkpoint."""

    step: int
    published_at: float
    """Unix seconds."""
    duration_s: float
    size_bytes: int


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
    message: str = ""
    """The last thing an operator should know, in words."""
