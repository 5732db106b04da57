"""How the samples of a metric are read off a `RunStatus`: its labels' values, and a number.

What is not known has no sample: a missing series is honest, a 0 would lie.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from online_swav.events import ACTION_KINDS
from online_swav.histogram import Histogram
from online_swav.learning.findings import FINDING_NAMES, VERDICTS, Health
from online_swav.status import RUN_STATES, RunStatus
from streams.counts import SHARD_STATES
from streams.shard import DROP_REASONS

Sample = tuple[tuple[str, ...], float | Histogram]
Reader = Callable[[RunStatus], Iterable[Sample]]


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), float(value))]


def nothing(_status: RunStatus) -> list[Sample]:
    """No samples: somebody else adds them."""
    return []


def run(field: str) -> Reader:
    """A field of the run."""
    return lambda status: _one(getattr(status, field))


def learner(field: str) -> Reader:
    """A field of the learner's report; withheld while the learner is down, lest it lie."""

    def read(status: RunStatus) -> list[Sample]:
        if status.learner is None or not status.learner_up:
            return []
        return _one(getattr(status.learner, field))

    return read


def sign(field: str) -> Reader:
    """One of the values that health rests on; withheld likewise."""

    def read(status: RunStatus) -> list[Sample]:
        if status.learner is None or not status.learner_up:
            return []
        return _one(getattr(status.learner.signs, field))

    return read


def counted(field: str) -> Reader:
    """A field of the learner's report that stays true when the learner is down: it only grows."""
    return lambda status: _one(getattr(status.learner, field) if status.learner else None)


def histogram(name: str) -> Reader:
    """A histogram of the learner, which keeps its counts while the learner is down."""

    def read(status: RunStatus) -> list[Sample]:
        found = status.learner.histograms.get(name) if status.learner else None
        return [] if found is None else [((), found)]

    return read


def source(field: str) -> Reader:
    """A number of the books, by source."""

    def read(status: RunStatus) -> Iterator[Sample]:
        for name, counts in status.sources.items():
            value = getattr(counts, field)
            if value is not None:
                yield (name,), float(value)

    return read


def checkpoint(field: str) -> Reader:
    """A field of the newest checkpoint."""
    return lambda status: _one(getattr(status.checkpoint, field) if status.checkpoint else None)


def probe(field: str) -> Reader:
    """A field of the labelled probe's last result."""
    return lambda status: (
        [(("knn",), float(getattr(status.probes[-1], field)))] if status.probes else []
    )


def build(_status: RunStatus) -> list[Sample]:
    """Versions of this package, of what it stands on, and of Python."""
    return [(_versions(), 1.0)]


@cache
def _versions() -> tuple[str, ...]:
    """From the installed packages' metadata: this process must not import torch for it."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("online-swav", "torch", "torchvision", "ray")
    return (*(installed(package) for package in packages), platform.python_version())


def run_states(status: RunStatus) -> Iterator[Sample]:
    """Which state the run is in."""
    for state in RUN_STATES:
        yield (state,), float(status.state == state)


def _health(status: RunStatus) -> Health:
    """What is known of health.

    A learner that went silent will be started again from another step, so its last verdict is
    withheld. When the run has ended no other weights will come: the last verdict stands.
    """
    if status.learner_up or status.state in ("stopped", "failed"):
        return status.health
    return dataclasses.replace(status, learner=None).health


def verdicts(status: RunStatus) -> Iterator[Sample]:
    """Which verdict it is."""
    verdict = _health(status).verdict
    for name in VERDICTS:
        yield (name,), float(name == verdict)


def findings(status: RunStatus) -> Iterator[Sample]:
    """Which findings there are."""
    active = {finding.name for finding in _health(status).findings}
    for name in FINDING_NAMES:
        yield (name,), float(name in active)


def actions(status: RunStatus) -> Iterator[Sample]:
    """Actions by kind.

    Absent before the first report: they are counted over all processes of the run, so a 0 in
    between would look like a reset and raise every alert on them again.
    """
    if status.learner is not None:
        for kind in ACTION_KINDS:
            yield (kind,), float(status.learner.actions.get(kind, 0))


def phases(status: RunStatus) -> Iterator[Sample]:
    """Seconds by phase."""
    if status.learner is not None:
        for phase, seconds in status.learner.phase_s.items():
            yield (phase,), seconds


def queue_ages(status: RunStatus) -> Iterator[Sample]:
    """Mean and largest age."""
    for stat, field in (("mean", "queue_age_steps"), ("max", "queue_age_max_steps")):
        for _, value in sign(field)(status):
            yield (stat,), value


def restarts(status: RunStatus) -> list[Sample]:
    """Restarts by component."""
    return [
        (("learner",), float(status.learner_restarts)),
        (("ingest",), float(status.ingest_restarts)),
    ]


def scaled(status: RunStatus) -> list[Sample]:
    """Changes of the number of ingest actors, by direction."""
    return [(("add",), float(status.ingest_added)), (("remove",), float(status.ingest_removed))]


def shards(status: RunStatus) -> Iterator[Sample]:
    """Shards by source and state."""
    for name, counts in status.sources.items():
        for state in SHARD_STATES:
            yield (name, state), float(counts.shards.get(state, 0))


def dropped(status: RunStatus) -> Iterator[Sample]:
    """Drops by source and reason."""
    for name, counts in status.sources.items():
        for reason in DROP_REASONS:
            yield (name, reason), float(counts.dropped.get(reason, 0))


def paused(status: RunStatus) -> Iterator[Sample]:
    """Which sources are paused."""
    for name, counts in status.sources.items():
        yield (name,), float(bool(counts.paused))


def source_errors(status: RunStatus) -> Iterator[Sample]:
    """Errors by source; 0 for one that had none."""
    for name in status.sources.keys() | status.source_errors.keys():
        yield (name,), float(status.source_errors.get(name, 0))


def checkpoints(status: RunStatus) -> list[Sample]:
    """Checkpoints by result."""
    return [
        (("ok",), float(status.checkpoints_published)),
        (("failed",), float(status.checkpoints_failed)),
    ]
