"""Every Prometheus family in one table: how each is read off a `RunStatus`.

Names follow the Prometheus conventions: prefix `online_swav_`, base units, `_total` for counters of
this process. What the ledger or the learner says *now* is a gauge, since a rollback may lower it.
Every value of a closed label set is always there, so that a first event is an increase from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from online_swav.learning.findings import FINDING_NAMES, VERDICTS
from online_swav.status import RUN_STATES, RunStatus
from streams.counts import SHARD_STATES
from streams.shard import DROP_REASONS

PREFIX = "online_swav_"
Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One family: its name without prefix, what it means, and how it is read off a snapshot."""

    name: str
    help: str
    read: Callable[[RunStatus], Iterable[Sample]]
    labels: tuple[str, ...] = ()
    counter: bool = False


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), float(value))]


def _learner(field: str) -> Callable[[RunStatus], list[Sample]]:
    """A field of the learner's report; withheld while the learner is down, lest it lie."""

    def read(status: RunStatus) -> list[Sample]:
        if status.learner is None or not status.learner_up:
            return []
        return _one(getattr(status.learner, field))

    return read


def _source(field: str) -> Callable[[RunStatus], Iterator[Sample]]:
    def read(status: RunStatus) -> Iterator[Sample]:
        for source, counts in status.sources.items():
            value = getattr(counts, field)
            if value is not None:
                yield (source,), float(value)

    return read


def _states(status: RunStatus) -> Iterator[Sample]:
    for state in RUN_STATES:
        yield (state,), float(status.state == state)


def _verdicts(status: RunStatus) -> Iterator[Sample]:
    learner = status.learner if status.learner_up else None
    verdict = learner.health.verdict if learner else "unknown"
    for name in VERDICTS:
        yield (name,), float(name == verdict)


def _findings(status: RunStatus) -> Iterator[Sample]:
    learner = status.learner if status.learner_up else None
    active = {f.name for f in learner.health.findings} if learner else set()
    for name in FINDING_NAMES:
        yield (name,), float(name in active)


def _shards(status: RunStatus) -> Iterator[Sample]:
    for source, counts in status.sources.items():
        for state in SHARD_STATES:
            yield (source, state), float(counts.shards.get(state, 0))


def _dropped(status: RunStatus) -> Iterator[Sample]:
    for source, counts in status.sources.items():
        for reason in DROP_REASONS:
            yield (source, reason), float(counts.dropped.get(reason, 0))


def _paused(status: RunStatus) -> Iterator[Sample]:
    for source, counts in status.sources.items():
        yield (source,), float(bool(counts.paused))


def _source_errors(status: RunStatus) -> Iterator[Sample]:
    for source in status.sources.keys() | status.source_errors.keys():
        yield (source,), float(status.source_errors.get(source, 0))


def _phases(status: RunStatus) -> Iterator[Sample]:
    if status.learner is not None:
        for phase, seconds in status.learner.phase_s.items():
            yield (phase,), seconds


def _probe(status: RunStatus) -> list[Sample]:
    return [(("knn",), status.probes[-1].knn_accuracy)] if status.probes else []


def _probed_at(status: RunStatus) -> list[Sample]:
    return [(("knn",), status.probes[-1].measured_at)] if status.probes else []


def _checkpoint(field: str) -> Callable[[RunStatus], list[Sample]]:
    return lambda status: _one(getattr(status.checkpoint, field) if status.checkpoint else None)


def _checkpoints(status: RunStatus) -> list[Sample]:
    return [
        (("ok",), float(status.checkpoints_published)),
        (("failed",), float(status.checkpoints_failed)),
    ]


def _restarts(status: RunStatus) -> list[Sample]:
    return [
        (("learner",), float(status.learner_restarts)),
        (("ingest",), float(status.ingest_restarts)),
    ]


def _scaled(status: RunStatus) -> list[Sample]:
    return [(("add",), float(status.ingest_added)), (("remove",), float(status.ingest_removed))]


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("run_info", "What runs; always 1.",
               lambda s: [((s.run, s.config_digest), 1.0)], ("run", "config_digest")),
    MetricSpec("run_state", "1 for the state the run is in, else 0.", _states, ("state",)),
    MetricSpec("generation", "Grows at every start or restart of the learner.",
               lambda s: _one(s.generation)),
    MetricSpec("start_timestamp_seconds", "When this process started the run.",
               lambda s: _one(s.started_at)),
    MetricSpec("learner_up", "1 while the learner reports; its gauges are withheld otherwise.",
               lambda s: _one(s.learner_up)),
    MetricSpec("last_report_timestamp_seconds", "Time of the learner's last report.",
               lambda s: _one(s.learner.reported_at if s.learner else None)),
    MetricSpec("ingest_actors", "Ingest actors there are now.",
               lambda s: _one(s.ingest_actors)),
    MetricSpec("ingest_scaled", "Ingest actors added and removed by the learner's waiting.",
               _scaled, ("decision",), counter=True),
    MetricSpec("restarts", "Restarts after a crash, by component.", _restarts, ("component",),
               counter=True),
    MetricSpec("health_state", "1 for the verdict on the representation, else 0.", _verdicts,
               ("state",)),
    MetricSpec("finding_active", "1 for each sign that the representation is unwell, else 0.",
               _findings, ("finding",)),
    MetricSpec("step", "Completed optimizer updates of the surviving weights.", _learner("step")),
    MetricSpec("samples_seen", "Images in these updates, replays included.",
               _learner("samples_seen")),
    MetricSpec("images_per_second", "Training speed over the last report interval.",
               _learner("images_per_s")),
    MetricSpec("wait_ratio", "Share of the last report interval spent waiting for a batch.",
               _learner("wait_ratio")),
    MetricSpec("backlog_ratio", "Share of requests to readers answered before they were needed.",
               _learner("backlog_ratio")),
    MetricSpec("learner_ranks", "Learner ranks of this generation.", _learner("ranks")),
    MetricSpec("step_seconds", "Mean duration of a step over the last report interval.",
               _learner("step_s")),
    MetricSpec("phase_seconds", "Time of the learner since it started, by phase.", _phases,
               ("phase",), counter=True),
    MetricSpec("loss", "Swapped-prediction loss, nats.", _learner("loss")),
    MetricSpec("loss_ratio", "Loss / log K: healthy 0.37 to 0.9, 1 is no learning.",
               _learner("loss_ratio")),
    MetricSpec("code_entropy_ratio", "Entropy of the codes / log K.",
               _learner("code_entropy_ratio")),
    MetricSpec("view_agreement_ratio", "Share of images whose two codes agree; rises.",
               _learner("view_agreement_ratio")),
    MetricSpec("prototypes", "Number of prototypes K.", lambda s: _one(s.num_prototypes)),
    MetricSpec("prototype_usage_perplexity_ratio",
               "Perplexity of the winning prototypes over a window / K: healthy above 0.1.",
               _learner("usage_perplexity_ratio")),
    MetricSpec("embedding_std_ratio",
               "Spread of the embeddings times sqrt(D): healthy near 1, collapsed under 0.3.",
               _learner("embedding_std_ratio")),
    MetricSpec("effective_rank", "RankMe of the embeddings, in dimensions.",
               _learner("effective_rank")),
    MetricSpec("gradient_norm", "Norm of the whole gradient.", _learner("grad_norm")),
    MetricSpec("learning_rate", "Current rate.", _learner("lr")),
    MetricSpec("epsilon", "Current Sinkhorn epsilon.", _learner("epsilon")),
    MetricSpec("temperature", "Current softmax temperature.", _learner("temperature")),
    MetricSpec("queue_fill_ratio", "Fill of the feature queue; 0 when it is off.",
               _learner("queue_fill_ratio")),
    MetricSpec("nonfinite_steps", "Updates skipped for a non-finite loss.",
               _learner("nonfinite_steps")),
    MetricSpec("refused_images", "Images that the ledger refused since the learner started.",
               _learner("refused_images")),
    MetricSpec("probe_accuracy_ratio", "Last result of the labelled probe.", _probe, ("probe",)),
    MetricSpec("last_probe_timestamp_seconds", "When it was measured.", _probed_at, ("probe",)),
    MetricSpec("shards", "Shards by state; every shard is in exactly one.", _shards,
               ("source", "state")),
    MetricSpec("images_known", "Samples of shards that were read to their end.",
               _source("samples_known"), ("source",)),
    MetricSpec("images_trained", "Images trained for the first time, in the surviving lineage.",
               _source("trained"), ("source",)),
    MetricSpec("images_replayed", "Images trained again, in the surviving lineage.",
               _source("replayed"), ("source",)),
    MetricSpec("images_uncommitted", "Images that a crash now would read again.",
               _source("uncommitted"), ("source",)),
    MetricSpec("images_dropped", "Images that cannot be used, by reason.", _dropped,
               ("source", "reason")),
    MetricSpec("source_bad_ratio",
               "Share of unusable samples over the window of the failure budget.",
               _source("bad_ratio"), ("source",)),
    MetricSpec("source_paused", "1 while a source is paused for exceeding its failure budget.",
               _paused, ("source",)),
    MetricSpec("unread_bytes", "Size of the shards that wait for a reader.",
               _source("unread_bytes"), ("source",)),
    MetricSpec("oldest_unread_shard_timestamp_seconds",
               "Discovery of the oldest shard that waits for a reader; absent when none does.",
               _source("oldest_unread_at"), ("source",)),
    MetricSpec("last_shard_discovered_timestamp_seconds", "Discovery of the newest shard.",
               _source("last_discovered_at"), ("source",)),
    MetricSpec("newest_trained_shard_timestamp_seconds",
               "Discovery of the newest shard that was trained on.",
               _source("newest_trained_at"), ("source",)),
    MetricSpec("source_errors",
               "Listings of a source that failed, and tars whose names are no UTF-8.",
               _source_errors, ("source",), counter=True),
    MetricSpec("checkpoints", "Checkpoints of this process, by result.", _checkpoints, ("result",),
               counter=True),
    MetricSpec("checkpoint_step", "Step of the newest checkpoint.", _checkpoint("step")),
    MetricSpec("last_checkpoint_timestamp_seconds", "When it was published.",
               _checkpoint("published_at")),
    MetricSpec("checkpoint_duration_seconds", "How long it took.", _checkpoint("duration_s")),
    MetricSpec("checkpoint_size_bytes", "Its size.", _checkpoint("size_bytes")),
    MetricSpec("checkpoint_interval_seconds", "Configured longest time between checkpoints.",
               lambda s: _one(s.checkpoint_every_s)),
    MetricSpec("ledger_size_bytes", "Size of the book on disk.", lambda s: _one(s.ledger_bytes)),
    MetricSpec("disk_free_bytes", "Free space under the run folder.",
               lambda s: _one(s.disk_free_bytes)),
)  # fmt: skip
