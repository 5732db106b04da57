"""A RunStatus with something in every field."""

from online_swav.events import ACTION_KINDS
from online_swav.histogram import Histogram
from online_swav.learning.findings import Finding, Health, HealthValues
from online_swav.status import (
    HISTOGRAMS,
    CheckpointStatus,
    LearnerStatus,
    ProbeStatus,
    RunStatus,
)
from streams.counts import SourceCounts

FINDING = Finding(
    name="stuck_at_log_k", value=0.99, healthy="0.37 to 0.9", remedy="Lower --learner.codes.epsilon"
)

SIGNS = HealthValues(
    images=4096, loss_ratio=0.71, best_loss_ratio=0.69, code_entropy_ratio=0.21,
    view_agreement_ratio=0.31, gradient_norm_ratio=1.1, usage_perplexity_ratio=0.8,
    dead_prototype_ratio=0.02, effective_rank=40.0, embedding_std_ratio=0.95, feature_rank=80.0,
    spectrum_alpha=1.2, duplicate_prototype_ratio=0.01, prototype_drift=0.03,
    marginal_error_ratio=0.4, eval_usage_ratio=0.9, queue_loss_ratio=1.02, queue_age_steps=30.0,
    queue_age_max_steps=60.0, queue_cosine=0.93, images_per_prototype=2.0,
)  # fmt: skip


def histograms():
    """Some observations in each."""
    found = {name: Histogram(bounds) for name, bounds in HISTOGRAMS.items()}
    for histogram in found.values():
        for value in (histogram.bounds[0], histogram.bounds[3], 2 * histogram.bounds[-1]):
            histogram.observe(value)
    return found


def learner(**over):
    values = {
        "state": "training", "reported_at": 1000.0, "step": 1200, "samples_seen": 76_800,
        "images_per_s": 312.4, "wait_ratio": 0.04, "step_s": 0.2,
        "phase_s": {"wait": 3.0, "claim": 0.1, "step": 40.0, "checkpoint": 1.0, "probe": 2.0},
        "loss": 2.9, "loss_ratio": 0.7, "code_entropy_ratio": 0.2, "view_agreement_ratio": 0.3,
        "grad_norm": 1.5, "embedding_std_ratio": 0.95, "signs": SIGNS,
        "lr": 0.1, "epsilon": 0.05, "temperature": 0.1, "queue_fill_ratio": 1.0, "ranks": 2,
        "backlog_ratio": 0.9, "data_age_s": 40.0, "near_duplicate_ratio": 0.03,
        "histograms": histograms(), "actions": dict.fromkeys(ACTION_KINDS, 0) | {"skip": 1},
        "health": Health(verdict="ok"),
    }  # fmt: skip
    return LearnerStatus(**{**values, **over})


def status(**over):
    values = {
        "run": "demo", "config_digest": "abc", "started_at": 900.0, "generation": 2,
        "state": "training", "num_prototypes": 64, "learner": learner(), "learner_up": True,
        "sources": {"cam": SourceCounts(shards={"done": 3, "unread": 1}, samples_known=30,
                                        trained=28, dropped={"corrupt": 2}, unread_bytes=5,
                                        oldest_unread_at=940.0, last_discovered_at=950.0,
                                        newest_trained_at=930.0)},
        "source_errors": {"cam": 1},
        "checkpoint": CheckpointStatus(step=1000, published_at=980.0, duration_s=1, size_bytes=9),
        "probes": (ProbeStatus(step=0, measured_at=1.0, knn_accuracy=0.3),
                   ProbeStatus(step=500, measured_at=2.0, knn_accuracy=0.5)),
        "checkpoint_every_s": 600.0, "published_step": 1000, "published_at": 981.0,
        "ingest_actors": 1, "disk_free_bytes": 10, "disk_size_bytes": 100, "message": "hello",
    }  # fmt: skip
    return RunStatus(**{**values, **over})
