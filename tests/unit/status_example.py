"""A RunStatus with something in every field."""

from online_swav.learning.findings import Finding, Health
from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus, RunStatus
from streams.counts import SourceCounts

FINDING = Finding(
    name="stuck_at_log_k", value=0.99, healthy="0.37 to 0.9", remedy="Lower --learner.codes.epsilon"
)


def learner(**over):
    values = {
        "state": "training", "reported_at": 1000.0, "step": 1200, "samples_seen": 76_800,
        "images_per_s": 312.4, "wait_ratio": 0.04, "step_s": 0.2, "phase_s": {"wait": 3.0},
        "loss": 2.9, "loss_ratio": 0.7, "code_entropy_ratio": 0.2, "view_agreement_ratio": 0.3,
        "grad_norm": 1.5, "embedding_std_ratio": 0.95, "effective_rank": 40.0,
        "usage_perplexity_ratio": 0.8, "lr": 0.1, "health": Health(verdict="ok"),
    }  # fmt: skip
    return LearnerStatus(**{**values, **over})


def status(**over):
    values = {
        "run": "demo", "config_digest": "abc", "started_at": 900.0, "generation": 2,
        "state": "training", "num_prototypes": 64, "learner": learner(), "learner_up": True,
        "sources": {"cam": SourceCounts(shards={"done": 3, "unread": 1}, samples_known=30,
                                        trained=28, dropped={"corrupt": 2}, unread_bytes=5,
                                        oldest_unread_at=940.0)},
        "source_errors": {"cam": 1},
        "checkpoint": CheckpointStatus(step=1000, published_at=980.0, duration_s=1, size_bytes=9),
        "probes": (ProbeStatus(step=0, measured_at=1.0, knn_accuracy=0.3),
                   ProbeStatus(step=500, measured_at=2.0, knn_accuracy=0.5)),
        "disk_free_bytes": 10, "message": "hello",
    }  # fmt: skip
    return RunStatus(**{**values, **over})
