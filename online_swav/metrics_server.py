"""Serves `/metrics` and `/healthz`: families computed at scrape time from one snapshot."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from online_swav.errors import MetricsPortError
from online_swav.metrics import METRICS, PREFIX
from online_swav.status import RunStatus


class StatusCollector:
    """Computes every family from one snapshot, at scrape time."""

    def __init__(self, snapshot: Callable[[], RunStatus]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All families of `METRICS`."""
        status = self._snapshot()
        for spec in METRICS:
            family: Any = CounterMetricFamily if spec.counter else GaugeMetricFamily
            metric = family(PREFIX + spec.name, spec.help, labels=spec.labels)
            for labels, value in spec.read(status):
                # A folder's name may hold bytes that are no UTF-8; the page must not fail on it.
                metric.add_metric([x.encode(errors="replace").decode() for x in labels], value)
            yield metric


def healthy(status: RunStatus) -> tuple[bool, list[str]]:
    """Whether /healthz says 200, and why not. Degraded is 200: a restart would not help it."""
    reasons = []
    if status.state == "failed":
        reasons.append(f"the run failed: {status.message}")
    learner = status.learner
    if learner is not None and learner.health.verdict == "collapsed":
        reasons.append("the representation collapsed")
        reasons += [f"{f.name}: {f.remedy}" for f in learner.health.findings if f.collapse]
    if learner is not None and not status.learner_up and status.state in ("training", "idle"):
        reasons.append("the learner no longer reports")
    reasons += [f"source {name} is paused: {counts.paused}"
                for name, counts in status.sources.items() if counts.paused]  # fmt: skip
    return not reasons, reasons


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: scrapes are not events."""


class MetricsServer:
    """A small threaded HTTP server."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        from prometheus_client.exposition import ThreadingWSGIServer

        try:
            self._server = make_server(
                host, port, app, server_class=ThreadingWSGIServer, handler_class=_QuietHandler
            )
        except (OSError, OverflowError) as error:
            advice = "Choose another --metrics.port, or 0 for a free one."
            if isinstance(error, socket.gaierror) or error.args[0] == errno.EADDRNOTAVAIL:
                advice = "--metrics.host must be an IPv4 address or name of this machine."
            elif error.args[0] == errno.EADDRINUSE:
                advice = f"Another run may use it. {advice}"
            raise MetricsPortError(
                f"cannot listen on {host}:{port} for metrics ({error}). {advice}"
            ) from error
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(snapshot: Callable[[], RunStatus], *, host: str, port: int) -> MetricsServer:
    """Serve `/metrics`, `/healthz` and an index on `host`:`port`; port 0 takes a free one.

    Raises:
        MetricsPortError: If the port is taken, or `host` is not of this machine.
    """
    registry = CollectorRegistry()
    registry.register(StatusCollector(snapshot))
    ProcessCollector(registry=registry)
    metrics: Any = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return metrics(environ, start_response)
        kind, code, body = "text/plain; charset=utf-8", "404 Not Found", "no such page\n"
        if path == "/healthz":
            status = snapshot()
            ok, reasons = healthy(status)
            code = "200 OK" if ok else "503 Service Unavailable"
            kind = "application/json"
            body = json.dumps({"ok": ok, "state": status.state, "reasons": reasons}) + "\n"
        elif path == "/":
            code, body = "200 OK", f"online-swav run {snapshot().run}\n/metrics\n/healthz\n"
        start_response(code, [("Content-Type", kind)])
        return [body.encode()]

    return MetricsServer(app, host, port)
