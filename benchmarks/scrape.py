"""What a scrape costs: time, bytes, series; and whether it holds up the learner's reports.

    python benchmarks/scrape.py --out benchmarks/results/scrape.json

A snapshot with something in every field is served on loopback as the status actor serves it, and
asked for as Prometheus asks: OpenMetrics, compressed, a new connection each time. Beside it a
thread reports 200 times a second, far more often than a learner; the time of its calls is measured
too.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import statistics
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from measuring import machine, write_json
from rich.console import Console
from rich.table import Table

from online_swav.events import ACTION_KINDS
from online_swav.histogram import Histogram
from online_swav.learning.findings import Health, HealthValues
from online_swav.metrics_server import serve_metrics
from online_swav.status import (
    HISTOGRAMS,
    CheckpointStatus,
    LearnerStatus,
    ProbeStatus,
    RunStatus,
)
from streams.counts import SHARD_STATES, SourceCounts
from streams.shard import DROP_REASONS

TARGET_MS = 50
HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    "Accept-Encoding": "gzip",
}


def example(sources: int) -> RunStatus:
    """A snapshot with something in every field that has a series."""
    histograms = {name: Histogram(bounds) for name, bounds in HISTOGRAMS.items()}
    for histogram in histograms.values():
        for bound in histogram.bounds:
            histogram.observe(bound)
    counts = SourceCounts(
        shards=dict.fromkeys(SHARD_STATES, 123_456), samples_known=12_345_678,
        trained=12_345_678, dropped=dict.fromkeys(DROP_REASONS, 123), unread_bytes=123_456_789,
        oldest_unread_at=1.7e9, last_discovered_at=1.7e9, newest_trained_at=1.7e9,
    )  # fmt: skip
    names = {field.name for field in dataclasses.fields(HealthValues)} - {"images"}
    signs = HealthValues(images=4096, **dict.fromkeys(names, 0.87654321))
    learner = LearnerStatus(
        state="training", reported_at=time.time(), step=123_456, samples_seen=12_345_678,
        images_per_s=312.345678, wait_ratio=0.012345, step_s=0.2, loss=2.345678, loss_ratio=0.56,
        phase_s=dict.fromkeys(("wait", "claim", "step", "checkpoint", "probe"), 12_345.678),
        code_entropy_ratio=0.2, view_agreement_ratio=0.6, grad_norm=1.2345, data_age_s=12.3,
        near_duplicate_ratio=0.01, histograms=histograms, actions=dict.fromkeys(ACTION_KINDS, 1),
        signs=signs,
        health=Health(verdict="ok"),
    )  # fmt: skip
    return RunStatus(
        run="imagenet-stream", config_digest="0123456789ab", started_at=1.7e9, generation=3,
        state="training", num_prototypes=3000, checkpoint_every_s=600.0, learner=learner,
        sources={f"source-{i}": counts for i in range(sources)}, learner_up=True,
        checkpoint=CheckpointStatus(
            step=123_000, published_at=1.7e9, duration_s=1.2, size_bytes=9**9
        ),
        probes=(ProbeStatus(step=123_000, measured_at=1.7e9, knn_accuracy=0.56),),
        ledger_bytes=123_456_789, disk_free_bytes=9**12, disk_size_bytes=9**13,
        published_step=123_000, published_at=1.7e9,
    )  # fmt: skip


class Snapshots:
    """The newest status behind a lock, as the status actor keeps it."""

    def __init__(self, status: RunStatus) -> None:
        self._status = status
        self._lock = threading.Lock()

    def report(self, learner: LearnerStatus) -> None:
        """Take new numbers."""
        with self._lock:
            self._status = dataclasses.replace(self._status, learner=learner)

    def snapshot(self) -> RunStatus:
        """The newest status."""
        with self._lock:
            status = self._status
        return dataclasses.replace(status, learner_up=True)


def scrape(port: int) -> tuple[float, bytes]:
    """Milliseconds and the compressed page."""
    begun = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers=HEADERS)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"/metrics answered {answer.status}")
    return 1e3 * (time.perf_counter() - begun), body


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile, maximum."""
    cuts = statistics.quantiles(values, n=100)
    return {"median": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(values), 3)}


def measure(sources: int, scrapes: int) -> dict[str, Any]:
    """One setting: scrapes one after the other, with reports beside them."""
    status = example(sources)
    snapshots = Snapshots(status)
    server = serve_metrics(snapshots.snapshot, host="127.0.0.1", port=0)
    done = threading.Event()
    reports: list[float] = []

    def learner() -> None:
        assert status.learner is not None
        while not done.wait(0.005):
            begun = time.perf_counter()
            snapshots.report(status.learner)
            snapshots.snapshot()
            reports.append(1e3 * (time.perf_counter() - begun))

    thread = threading.Thread(target=learner)
    thread.start()
    try:
        for _ in range(10):
            scrape(server.port)
        reports.clear()
        taken = [scrape(server.port) for _ in range(scrapes)]
    finally:
        done.set()
        thread.join()
        server.close()
    page = gzip.decompress(taken[-1][1])
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    return {"sources": sources, "series": series, "bytes": len(page),
            "bytes_compressed": len(taken[-1][1]), "ms": quantiles([ms for ms, _ in taken]),
            "report_ms": quantiles(reports)}  # fmt: skip


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 2, 10])
    parser.add_argument("--scrapes", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    table = Table(title=f"one scrape, {options.scrapes} of them; the target is {TARGET_MS} ms")
    for column in ("sources", "series", "bytes", "compressed", "median ms", "p99 ms", "max ms",
                   "a report beside it, p99 ms"):  # fmt: skip
        table.add_column(column, justify="right")
    results = []
    for sources in options.sources:
        result = measure(sources, options.scrapes)
        results.append(result)
        ms, reported = result["ms"], result["report_ms"]
        table.add_row(str(sources), str(result["series"]), f"{result['bytes']:,}",
                      f"{result['bytes_compressed']:,}", f"{ms['median']:.2f}", f"{ms['p99']:.2f}",
                      f"{ms['max']:.2f}", f"{reported['p99']:.3f}")  # fmt: skip
    Console(width=110).print(table)
    write_json(options.out, {
        "machine": machine("prometheus-client"), "target_ms": TARGET_MS,
        "under_target": all(r["ms"]["p99"] < TARGET_MS for r in results), "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
