"""Every Prometheus family in one table: what it is, and how it is read off a `RunStatus`.

Names follow the Prometheus conventions: prefix `online_swav_`, base units, `_total` for counters of
this process, `_info` for words. What the ledger or the learner says *now* is a gauge, since a
rollback may lower it. Every value of a closed label set is always there, so that a first event is
an increase from 0. `docs/metrics.md` is made of this table (`online_swav.metrics_table`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from online_swav.events import ACTION_KINDS
from online_swav.learning.findings import FINDING_NAMES, VERDICTS
from online_swav.metrics_reading import (
    Reader,
    actions,
    build,
    checkpoint,
    checkpoints,
    counted,
    dropped,
    findings,
    histogram,
    learner,
    nothing,
    paused,
    phases,
    probe,
    queue_ages,
    restarts,
    run,
    run_states,
    scaled,
    shards,
    sign,
    source,
    source_errors,
    verdicts,
)
from online_swav.status import RUN_STATES
from streams.counts import SHARD_STATES
from streams.shard import DROP_REASONS

PREFIX = "online_swav_"
Kind = Literal["gauge", "counter", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One family."""

    name: str
    """As Prometheus shows it, without the prefix; of a histogram without `_bucket`."""
    kind: Kind
    unit: str
    """What a value counts; `0/1` for a truth, empty for a number without a unit."""
    meaning: str
    """One sentence: the help text."""
    read: Reader
    """Its samples in a snapshot; none while they are not known."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)
    """Its labels beside `run`, which every family has, with their values; none of an open set."""
    healthy: str = field(default="", kw_only=True)
    """Values of a run that is well; empty when no value is good or bad by itself."""
    alert: str = field(default="", kw_only=True)
    """The rule of `deploy/prometheus/alerts.yml` that watches it first of all; or empty."""


def _open(*labels: str) -> dict[str, tuple[str, ...]]:
    """Labels with values that are not known beforehand."""
    return dict.fromkeys(labels, ())


SOURCE = _open("source")

COLLECT_DURATION = MetricSpec(
    "exporter_collect_duration_seconds", "gauge", "seconds",
    "Time to compute this page, up to this line.", nothing,
    healthy="under 0.05", alert="ExporterSlow",
)  # fmt: skip
"""Measured by the collector, not by the run."""

GROUPS: dict[str, tuple[MetricSpec, ...]] = {
    "The run": (
        MetricSpec("build_info", "info", "", "Versions of what runs.", build,
                   labels=_open("version", "torch", "torchvision", "ray", "python")),
        MetricSpec("run_info", "info", "", "Digest of the options that decide the weights.",
                   lambda status: [((status.config_digest,), 1.0)], labels=_open("config_digest")),
        MetricSpec("run_state", "gauge", "0/1", "1 for the state the run is in, else 0.",
                   run_states, labels={"state": RUN_STATES}, healthy="training or idle",
                   alert="RunFailed"),
        MetricSpec("generation", "gauge", "", "Grows at every start or restart of the learner.",
                   run("generation")),
        MetricSpec("start_timestamp_seconds", "gauge", "unix seconds",
                   "When this process started the run.", run("started_at")),
        MetricSpec("learner_up", "gauge", "0/1",
                   "1 while the learner reports; its gauges are withheld otherwise.",
                   run("learner_up"), healthy="1", alert="LearnerDown"),
        MetricSpec("last_report_timestamp_seconds", "gauge", "unix seconds",
                   "Time of the learner's last report.", counted("reported_at"),
                   healthy="close to now", alert="LearnerDown"),
        MetricSpec("learner_ranks", "gauge", "ranks", "Learner ranks of this generation.",
                   learner("ranks"), healthy="as many as asked for"),
        MetricSpec("restarts_total", "counter", "restarts", "Restarts after a crash.", restarts,
                   labels={"component": ("learner", "ingest")}, healthy="flat", alert="CrashLoop"),
        MetricSpec("ingest_actors", "gauge", "actors", "Ingest actors there are now.",
                   run("ingest_actors")),
        MetricSpec("ingest_scaled_total", "counter", "actors",
                   "Ingest actors added and removed by the learner's waiting.", scaled,
                   labels={"decision": ("add", "remove")}),
    ),
    "Is it learning": (
        MetricSpec("step", "gauge", "steps", "Optimizer updates of the surviving weights.",
                   learner("step"), healthy="grows", alert="Stalled"),
        MetricSpec("samples_seen", "gauge", "images", "Images in these updates, replays included.",
                   learner("samples_seen"), healthy="grows", alert="Stalled"),
        MetricSpec("images_per_second", "gauge", "images/s",
                   "Training speed over the last report interval, all ranks.",
                   learner("images_per_s"), healthy="steady", alert="ThroughputDropped"),
        MetricSpec("step_duration_seconds", "histogram", "seconds",
                   "Duration of a step, rank 0, since the learner started.",
                   histogram("step_duration_seconds"), healthy="p99 under twice the median",
                   alert="Stalled"),
        MetricSpec("loss", "gauge", "nats", "Swapped-prediction loss.", learner("loss"),
                   healthy="finite", alert="LossNotFinite"),
        MetricSpec("loss_ratio", "gauge", "ratio",
                   "Loss / log K of the last step: 1 is no learning at all.",
                   learner("loss_ratio"), healthy="0.4 to 0.9 after the start",
                   alert="StuckAtLogK"),
        MetricSpec("loss_ratio_best", "gauge", "ratio",
                   "Lowest value of the smoothed loss / log K, slowly forgotten.",
                   sign("best_loss_ratio"), healthy="within 0.1 of loss_ratio",
                   alert="LossBounced"),
        MetricSpec("code_entropy_ratio", "gauge", "ratio",
                   "Entropy of the codes / log K: 1 when uniform, 0 when one-hot.",
                   learner("code_entropy_ratio"), healthy="0.05 to 0.95",
                   alert="FindingActive"),
        MetricSpec("view_agreement_ratio", "gauge", "ratio",
                   "Share of images whose two codes have the same largest prototype.",
                   learner("view_agreement_ratio"), healthy="rises to 0.3 to 0.8",
                   alert="FindingActive"),
        MetricSpec("gradient_norm", "gauge", "", "Norm of the whole gradient.",
                   learner("grad_norm")),
        MetricSpec("gradient_norm_ratio", "gauge", "ratio",
                   "Gradient norm over about 10 steps / over about 200, geometric means.",
                   sign("gradient_norm_ratio"), healthy="near 1, under 10", alert="FindingActive"),
        MetricSpec("learning_rate", "gauge", "", "Current rate.", learner("lr"),
                   alert="FindingActive"),
        MetricSpec("epsilon", "gauge", "", "Current Sinkhorn epsilon.", learner("epsilon")),
        MetricSpec("temperature", "gauge", "", "Current softmax temperature.",
                   learner("temperature")),
        MetricSpec("probe_accuracy_ratio", "gauge", "ratio", "Last result of the labelled probe.",
                   probe("knn_accuracy"), labels={"probe": ("knn",)}, healthy="rises",
                   alert="ProbeFalling"),
        MetricSpec("last_probe_timestamp_seconds", "gauge", "unix seconds",
                   "When the labelled probe was last measured.", probe("measured_at"),
                   labels={"probe": ("knn",)}),
    ),
    "Is it healthy": (
        MetricSpec("health_state", "gauge", "0/1", "1 for the verdict on the run, else 0.",
                   verdicts, labels={"state": VERDICTS}, healthy="ok", alert="Collapsed"),
        MetricSpec("finding_active", "gauge", "0/1", "1 for each sign that it is unwell, else 0.",
                   findings, labels={"finding": FINDING_NAMES}, healthy="all 0",
                   alert="FindingActive"),
        MetricSpec("health_window_images", "gauge", "images",
                   "Images in the window that health is measured over.", sign("images")),
        MetricSpec("prototypes", "gauge", "prototypes", "Number of prototypes K.",
                   run("num_prototypes")),
        MetricSpec("prototype_usage_perplexity_ratio", "gauge", "ratio",
                   "Perplexity of the winning prototypes over a window / K.",
                   sign("usage_perplexity_ratio"),
                   healthy="above 0.1, less in windows under K images", alert="UsageNarrow"),
        MetricSpec("prototypes_dead_ratio", "gauge", "ratio",
                   "Share of prototypes that won no image of the window.",
                   sign("dead_prototype_ratio"), healthy="under 0.5 + exp(-images / K) / 2",
                   alert="DeadPrototypes"),
        MetricSpec("prototypes_duplicate_ratio", "gauge", "ratio",
                   "Share of prototypes with a cosine above 0.975 to another one.",
                   sign("duplicate_prototype_ratio"), healthy="under 0.05", alert="FindingActive"),
        MetricSpec("prototype_drift", "gauge", "1 - cosine",
                   "1 - mean cosine of prototypes to themselves, per 1,000 steps; 0 while frozen.",
                   sign("prototype_drift"), healthy="falls, under 0.5",
                   alert="FindingActive"),
        MetricSpec("sinkhorn_marginal_error_ratio", "gauge", "ratio",
                   "Mean |K x mass of a prototype - 1| after the last Sinkhorn iteration.",
                   sign("marginal_error_ratio"), healthy="under 1.2", alert="FindingActive"),
        MetricSpec("images_per_prototype", "gauge", "images",
                   "(images of a step, over about 50 steps, + configured queue) / K.",
                   sign("images_per_prototype"), healthy="about 1.4, not under 0.05",
                   alert="FindingActive"),
        MetricSpec("embedding_std_ratio", "gauge", "ratio",
                   "Spread of the window's embeddings x sqrt(D).", sign("embedding_std_ratio"),
                   healthy="near 1; collapsed under 0.3", alert="Collapsed"),
        MetricSpec("effective_rank", "gauge", "dimensions", "RankMe of the window's embeddings.",
                   sign("effective_rank"), healthy="tens, not falling", alert="RankLow"),
        MetricSpec("feature_rank", "gauge", "dimensions",
                   "RankMe of the backbone's features over the window.", sign("feature_rank"),
                   healthy="above F / 100, not falling", alert="RankLow"),
        MetricSpec("spectrum_alpha", "gauge", "",
                   "Power-law decay of the eigenvalues of the features (alpha-ReQ).",
                   sign("spectrum_alpha"), healthy="about 1, under 3", alert="FindingActive"),
        MetricSpec("eval_usage_ratio", "gauge", "ratio",
                   "Prototype usage of the same images in eval mode / in train mode.",
                   sign("eval_usage_ratio"), healthy="near 1, above 0.5", alert="BatchNormGap"),
        MetricSpec("queue_fill_ratio", "gauge", "ratio", "Fill of the feature queue; 0 when off.",
                   learner("queue_fill_ratio"), healthy="1, or 0 when off"),
        MetricSpec("queue_loss_ratio", "gauge", "ratio",
                   "Loss with codes by queue and batch / by the batch alone, if that has K images.",
                   sign("queue_loss_ratio"), healthy="0.77 to 1.3", alert="FindingActive"),
        MetricSpec("queue_age_steps", "gauge", "steps", "Age of the embeddings in the queue.",
                   queue_ages, labels={"stat": ("mean", "max")}),
        MetricSpec("queue_cosine", "gauge", "cosine",
                   "Cosine of embeddings as old as the queue's oldest to the images encoded again.",
                   sign("queue_cosine"), healthy="above 0.7", alert="QueueStale"),
        MetricSpec("nonfinite_steps", "gauge", "steps",
                   "Updates skipped for a non-finite loss or gradient, in the surviving lineage.",
                   learner("nonfinite_steps"), healthy="flat", alert="NonFiniteSteps"),
        MetricSpec("actions_total", "counter", "actions",
                   "What the run has done by itself since it was created.", actions,
                   labels={"kind": ACTION_KINDS}, healthy="flat", alert="ActedByItself"),
    ),
    "Is it fed": (
        MetricSpec("wait_ratio", "gauge", "ratio",
                   "Share of the last report interval spent waiting for a batch.",
                   learner("wait_ratio"), healthy="under 0.1", alert="Starved"),
        MetricSpec("backlog_ratio", "gauge", "ratio",
                   "Share of requests to readers answered before they were needed.",
                   learner("backlog_ratio"), healthy="above 0.5"),
        MetricSpec("phase_seconds_total", "counter", "seconds",
                   "Time of the learner since it started, by phase.", phases,
                   labels={"phase": ("wait", "claim", "step", "checkpoint", "probe")},
                   healthy="wait under a tenth of all", alert="Starved"),
        MetricSpec("batch_wait_seconds", "histogram", "seconds",
                   "Wait for one batch, rank 0, since the learner started.",
                   histogram("batch_wait_seconds"), healthy="p95 under a tenth of a step",
                   alert="Starved"),
        MetricSpec("decode_duration_seconds", "histogram", "seconds",
                   "Decoding of one image with its crops, since the learner started.",
                   histogram("decode_duration_seconds"), healthy="p99 under 0.1"),
        MetricSpec("ingest_lag_seconds", "histogram", "seconds",
                   "From a shard's discovery to the training of its images, one by one.",
                   histogram("ingest_lag_seconds"), healthy="p95 under what you promise",
                   alert="Lagging"),
        MetricSpec("data_age_seconds", "gauge", "seconds",
                   "Mean time since the discovery of what the last step trained first.",
                   learner("data_age_s"), healthy="under --watch.max-data-age-s",
                   alert="FindingActive"),
        MetricSpec("near_duplicate_ratio", "gauge", "ratio",
                   "Share of near-duplicates among the latest images.",
                   learner("near_duplicate_ratio"), healthy="under 0.1", alert="FindingActive"),
        MetricSpec("refused_images_total", "counter", "images",
                   "Images that the ledger refused since the learner started.",
                   counted("refused_images"), healthy="flat but for restarts"),
        MetricSpec("shards", "gauge", "shards", "Shards; every one is in exactly one state.",
                   shards, labels=SOURCE | {"state": SHARD_STATES},
                   healthy="unread bounded, quarantined flat", alert="Quarantining"),
        MetricSpec("images_known", "gauge", "images",
                   "Samples of shards that were read to their end.", source("samples_known"),
                   labels=SOURCE),
        MetricSpec("images_trained", "gauge", "images",
                   "Images trained for the first time, in the surviving lineage.",
                   source("trained"), labels=SOURCE, healthy="grows", alert="Stalled"),
        MetricSpec("images_replayed", "gauge", "images",
                   "Images trained again, in the surviving lineage.", source("replayed"),
                   labels=SOURCE),
        MetricSpec("images_dropped", "gauge", "images", "Images that cannot be used, by reason.",
                   dropped, labels=SOURCE | {"reason": DROP_REASONS},
                   healthy="flat", alert="DropRate"),
        MetricSpec("source_bad_ratio", "gauge", "ratio",
                   "Share of unusable samples over the window of the failure budget.",
                   source("bad_ratio"), labels=SOURCE, healthy="under 0.01",
                   alert="FailureBudget"),
        MetricSpec("source_paused", "gauge", "0/1",
                   "1 while a source is paused for exceeding its failure budget.", paused,
                   labels=SOURCE, healthy="0", alert="SourcePaused"),
        MetricSpec("source_errors_total", "counter", "errors",
                   "Listings of a source that failed, and tars whose names are no UTF-8.",
                   source_errors, labels=SOURCE, healthy="flat", alert="SourceFailing"),
        MetricSpec("unread_bytes", "gauge", "bytes", "Size of the shards that wait for a reader.",
                   source("unread_bytes"), labels=SOURCE, healthy="bounded",
                   alert="Lagging"),
        MetricSpec("oldest_unread_shard_timestamp_seconds", "gauge", "unix seconds",
                   "Discovery of the oldest shard that waits for a reader; absent when none does.",
                   source("oldest_unread_at"), labels=SOURCE,
                   healthy="close to now, or absent", alert="Lagging"),
        MetricSpec("last_shard_discovered_timestamp_seconds", "gauge", "unix seconds",
                   "Discovery of the newest shard.", source("last_discovered_at"),
                   labels=SOURCE, healthy="as often as shards are sent",
                   alert="SourceSilent"),
        MetricSpec("newest_trained_shard_timestamp_seconds", "gauge", "unix seconds",
                   "Discovery of the newest shard that was trained on.",
                   source("newest_trained_at"), labels=SOURCE,
                   healthy="close to the newest shard's"),
    ),
    "Is it safe": (
        MetricSpec("images_uncommitted", "gauge", "images",
                   "Images that a crash now would read again.", source("uncommitted"),
                   labels=SOURCE, healthy="under what one interval trains",
                   alert="CheckpointOld"),
        MetricSpec("checkpoints_total", "counter", "checkpoints", "Checkpoints of this process.",
                   checkpoints, labels={"result": ("ok", "failed")}, healthy="failed stays 0",
                   alert="CheckpointFailing"),
        MetricSpec("checkpoint_step", "gauge", "steps", "Step of the newest checkpoint.",
                   checkpoint("step"), healthy="close behind step", alert="CheckpointOld"),
        MetricSpec("last_checkpoint_timestamp_seconds", "gauge", "unix seconds",
                   "When the newest checkpoint was published.", checkpoint("published_at"),
                   healthy="at most three intervals ago", alert="CheckpointOld"),
        MetricSpec("checkpoint_interval_seconds", "gauge", "seconds",
                   "Configured longest time between checkpoints.", run("checkpoint_every_s")),
        MetricSpec("checkpoint_duration_seconds", "gauge", "seconds",
                   "How long the newest checkpoint took.", checkpoint("duration_s"),
                   healthy="under a tenth of the interval"),
        MetricSpec("checkpoint_size_bytes", "gauge", "bytes", "Size of the newest checkpoint.",
                   checkpoint("size_bytes")),
        MetricSpec("published_step", "gauge", "steps",
                   "Step of the newest healthy encoder in published/.", run("published_step"),
                   healthy="grows", alert="NothingPublished"),
        MetricSpec("last_published_timestamp_seconds", "gauge", "unix seconds",
                   "When the newest healthy encoder went to published/.", run("published_at"),
                   healthy="within a day", alert="NothingPublished"),
        MetricSpec("ledger_size_bytes", "gauge", "bytes", "Size of the book on disk.",
                   run("ledger_bytes"), healthy="about 200 bytes a shard"),
        MetricSpec("disk_free_bytes", "gauge", "bytes", "Free space under the run folder.",
                   run("disk_free_bytes"), healthy="above three checkpoints and 512 MiB",
                   alert="DiskFilling"),
        MetricSpec("disk_size_bytes", "gauge", "bytes", "Size of that disk.",
                   run("disk_size_bytes")),
        COLLECT_DURATION,
    ),
}  # fmt: skip
"""By the question that they answer."""

METRICS = tuple(spec for group in GROUPS.values() for spec in group)
"""All families, in the order of the page."""
