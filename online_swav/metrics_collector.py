"""Makes Prometheus' families of one snapshot, at scrape time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from online_swav.histogram import Histogram
from online_swav.metrics import COLLECT_DURATION, METRICS, PREFIX, MetricSpec
from online_swav.metrics_reading import Sample
from online_swav.status import RunStatus


class StatusCollector(Collector):
    """Computes every family from one snapshot.

    Args:
        snapshot: The newest status. It must not wait for the learner: a scrape has to be cheap
            and must not hold up a step.
    """

    def __init__(self, snapshot: Callable[[], RunStatus]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All families of `METRICS`."""
        begun = time.perf_counter()
        status = self._snapshot()
        for spec in METRICS:
            own = spec is COLLECT_DURATION  # the last
            elapsed = ((), time.perf_counter() - begun)
            yield family(spec, status.run, [elapsed] if own else spec.read(status))


def family(spec: MetricSpec, run: str, samples: Iterable[Sample]) -> Metric:
    """One family as the client library knows it, with the run as a label.

    Prometheus would rather have such a label from its own configuration. But one port serves one
    run after the other, and a trend must not reach from one run into the next.
    """
    name = PREFIX + spec.name
    if spec.kind == "info":
        info = InfoMetricFamily(name.removesuffix("_info"), spec.meaning, labels=["run"])
        for values, _ in samples:
            words = map(_utf8, values)
            info.add_metric([_utf8(run)], dict(zip(spec.labels, words, strict=True)))
        return info
    labels = ["run", *spec.labels]
    if spec.kind == "histogram":
        buckets = HistogramMetricFamily(name, spec.meaning, labels=labels)
        for values, value in samples:
            assert isinstance(value, Histogram)
            counts = value.cumulative()
            buckets.add_metric([_utf8(run), *map(_utf8, values)], counts, value.sum)
        return buckets
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    metric = kind(name, spec.meaning, labels=labels)
    for values, value in samples:
        assert not isinstance(value, Histogram)
        metric.add_metric([_utf8(run), *map(_utf8, values)], value)
    return metric


def _utf8(text: str) -> str:
    """A folder's name may hold bytes that are no UTF-8; the page must not fail on it."""
    return text.encode(errors="replace").decode()
