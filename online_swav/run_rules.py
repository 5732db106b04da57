"""Signs around the learner: is it fed, is it safe. Rules over a `RunStatus`; clock in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from online_swav.config import RunConfig
from online_swav.learning.findings import Finding
from online_swav.learning.rules import Judge, Rule
from online_swav.status import RunStatus
from online_swav.wording import duration, size

LEAST_FREE_BYTES = 2**29
WAIT_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class RunSignals:
    """What the rules read."""

    status: RunStatus
    config: RunConfig
    now: float
    """Unix seconds."""
    wait_ratio: float | None
    """Share of the time that the learner waits, over about the last 20 looks."""


def _backlog(signals: RunSignals) -> bool:
    """Whether there is something to read: without it the world is quiet, and nobody is slow."""
    waiting = ("unread", "leased")
    return any(c.shards.get(s, 0) for c in signals.status.sources.values() for s in waiting)


def _training(signals: RunSignals) -> bool:
    status = signals.status
    return status.learner_up and status.state == "training"


def _lag(signals: RunSignals) -> Mapping[str, float]:
    """How far arrival is ahead of reading; 0 for shards that were all there at once."""
    return {
        name: counts.last_discovered_at - counts.oldest_unread_at
        for name, counts in signals.status.sources.items()
        if counts.oldest_unread_at is not None and counts.last_discovered_at is not None
    }


def _bad_share(signals: RunSignals) -> Mapping[str, float]:
    """As the budget itself, of no source that has too few samples for a judgement."""
    least = signals.config.budget.min_samples
    sources = signals.status.sources.items()
    return {name: counts.bad_ratio for name, counts in sources if counts.budget_samples >= least}


def _checkpoint_age(signals: RunSignals) -> float:
    status = signals.status
    last = status.checkpoint.published_at if status.checkpoint else 0.0
    return signals.now - max(last, status.started_at)


def _probe_fall(signals: RunSignals) -> float | None:
    """How far the last two results are below the best: one alone may be chance."""
    values = [probe.knn_accuracy for probe in signals.status.probes]
    return max(values) - max(values[-2:]) if len(values) > 2 else None


def _data_age(signals: RunSignals) -> float | None:
    learner = signals.status.learner
    return learner.data_age_s if learner is not None else None


def _near_duplicates(signals: RunSignals) -> float | None:
    learner = signals.status.learner
    return learner.near_duplicate_ratio if learner is not None else None


def _disk_free(signals: RunSignals) -> float | None:
    free = signals.status.disk_free_bytes
    return None if free is None else float(free)


def _disk_needed(signals: RunSignals) -> float:
    """Room for the next checkpoints: they are written beside the ones that are kept."""
    status = signals.status
    checkpoint = status.checkpoint.size_bytes if status.checkpoint else 0
    return max(float(LEAST_FREE_BYTES), 3.0 * checkpoint)


RUN_RULES: tuple[Rule[RunSignals], ...] = (
    Rule(
        name="starved", read=lambda s: s.wait_ratio,
        unhealthy="above", limit=lambda _: 0.3, hold=60.0,
        applies=lambda s: _training(s) and _backlog(s),
        healthy="under {limit} of the time, best under 0.05",
        remedy="The learner waits for images that are there: raise --ingest.actors (or give a "
        "range, --ingest 1:4), --ingest.in-flight, or see whether the storage is slow.",
    ),
    Rule(
        name="lagging", read=_lag, words=duration,
        unhealthy="above", limit=lambda s: s.config.watch.max_lag_s, hold=60.0,
        healthy="the oldest unread shard under {limit} behind the newest (--watch.max-lag-s)",
        remedy="Shards arrive faster than they are trained: add learners (--learners) or, while "
        "the learner waits, readers (--ingest.actors).",
    ),
    Rule(
        name="stale_data", read=_data_age, words=duration,
        unhealthy="above", limit=lambda s: s.config.watch.max_data_age_s, hold=60.0,
        applies=_training,
        healthy="under {limit} (--watch.max-data-age-s)",
        remedy="What is learned now arrived long ago: add learners (--learners) to catch up, or "
        "raise --watch.max-data-age-s if that is meant.",
    ),
    Rule(
        name="failure_budget", read=_bad_share,
        unhealthy="above", limit=lambda s: 0.5 * s.config.budget.max_bad_share, margin=0.2,
        healthy="under {limit}; the source is paused at --budget.max-bad-share",
        remedy="Much of the source cannot be used: look with `online-swav quarantine list`, and "
        "mend what writes it before --budget.max-bad-share is reached.",
    ),
    Rule(
        name="checkpoint_old", read=_checkpoint_age, words=duration,
        unhealthy="above", limit=lambda s: 3 * s.config.checkpoint.every_s, applies=_training,
        healthy="under {limit}, three times --checkpoint.every-s",
        remedy="A crash now would repeat a lot: see the log for failed checkpoints or a collapse, "
        "and whether the disk is full; raise --checkpoint.every-s if a step takes that long.",
    ),
    Rule(
        name="probe_falling", read=_probe_fall,
        unhealthy="above", limit=lambda _: 0.05, margin=0.4,
        healthy="within {limit} of the best result so far",
        remedy="The encoder gets worse: lower --learner.optim.lr, look at what the stream brings "
        "(`online-swav report`), or take an older checkpoint.",
    ),
    Rule(
        name="near_duplicates", read=_near_duplicates,
        unhealthy="above", limit=lambda _: 0.1, margin=0.3, hold=30.0, applies=_training,
        healthy="under {limit}",
        remedy="Many images are nearly the same, as of a video or of one kind of thing: thin the "
        "stream out, or mix it better with --ingest.window and --ingest.open-shards.",
    ),
    Rule(
        name="disk_filling", read=_disk_free, words=size,
        unhealthy="below", limit=_disk_needed, margin=0.2,
        healthy="above {limit}",
        remedy="Checkpoints will fail: make room, or lower --checkpoint.keep.",
    ),
)  # fmt: skip


class RunJudge:
    """Findings around the learner, from snapshot to snapshot.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._judge = Judge(RUN_RULES)
        self._wait_ratio: float | None = None

    def judge(self, status: RunStatus, *, now: float) -> tuple[Finding, ...]:
        """What is wrong now.

        Args:
            status: The newest snapshot.
            now: Unix seconds.
        """
        learner = status.learner
        step = learner.step if learner is not None else 0
        if learner is not None:
            before = learner.wait_ratio if self._wait_ratio is None else self._wait_ratio
            self._wait_ratio = before + WAIT_WEIGHT * (learner.wait_ratio - before)
        signals = RunSignals(status, self._config, now, self._wait_ratio)
        return self._judge.judge(signals, at=now, now=now, step=step)
