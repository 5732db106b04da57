"""Serves `/metrics`, `/healthz`, the page `/`, `/status.json` and the report. It only reads.

Everything is made of one snapshot in this process: no request waits for a learner.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from online_swav.console import status_json
from online_swav.errors import MetricsPortError
from online_swav.guide import GUIDE
from online_swav.metrics_collector import StatusCollector
from online_swav.status import RunStatus
from online_swav.status_page import STYLE, status_page

IDLE_S = 20.0
"""Seconds after which a client that says nothing, or takes nothing, is let go."""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_POLICY = f"{_NOTHING}; style-src 'sha256-{_STYLE_HASH}'; img-src data:"
_REPORT_POLICY = f"{_NOTHING}; style-src 'unsafe-inline'; img-src data:"
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]
_TEXT, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"


def healthy(status: RunStatus) -> tuple[bool, list[str]]:
    """Whether /healthz says 200, and why not. Degraded is 200: a restart would not help it."""
    reasons = []
    if status.state == "failed":
        reasons.append(f"the run failed: {status.message}")
    if status.health.verdict == "collapsed":
        reasons.append("the representation collapsed")
        reasons += [f"{f.name}: {f.remedy}" for f in status.health.findings if f.collapse]
    if status.learner and not status.learner_up and status.state in ("training", "idle"):
        reasons.append("the learner no longer reports")
    reasons += [f"source {name} is paused: {counts.paused}"
                for name, counts in status.sources.items() if counts.paused]  # fmt: skip
    return not reasons, reasons


def port_error(host: str, port: int, error: Exception) -> MetricsPortError:
    """Why a port cannot be listened on, and what to do about it."""
    if isinstance(error, socket.gaierror) or error.args[0] == errno.EADDRNOTAVAIL:
        return MetricsPortError(
            f"no port can be opened on {host}, which is no IPv4 address or name of this machine: "
            f"give another --metrics.host for port {port}"
        )
    if error.args[0] == errno.EADDRINUSE:
        reason = "in use by another process, perhaps another run"
    else:
        reason = f"not to be had ({getattr(error, 'strerror', None) or error})"
    return MetricsPortError(
        f"port {port} on {host} is {reason}: give another --metrics.port, or 0 for a free one"
    )


class _QuietHandler(WSGIRequestHandler):
    timeout = IDLE_S  # of the socket: a silent client must not keep a thread for ever

    def handle(self) -> None:
        """As the parent, for clients that go away in the middle."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

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
            raise port_error(host, port, error) from error
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Pages:
    """The pages beside `/metrics`, as a WSGI application.

    Args:
        snapshot: The newest status; it must not wait for anything.
        report: Where `online-swav report` leaves its file.
    """

    def __init__(self, snapshot: Callable[[], RunStatus], report: Path | None) -> None:
        self._snapshot = snapshot
        self._report = report

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """Answer one request."""
        code, kind, policy, body = self._answer(environ.get("PATH_INFO", "/"))
        headers = [
            ("Content-Type", kind), ("Content-Length", str(len(body))),
            ("Content-Security-Policy", policy),
        ]  # fmt: skip
        start_response(f"{code.value} {code.phrase}", headers)
        return [body]

    def _answer(self, path: str) -> tuple[HTTPStatus, str, str, bytes]:
        if path == "/":
            has_report = self._report is not None and self._report.is_file()
            page = status_page(self._snapshot(), time.time(), report=has_report,
                               guide=GUIDE.is_file())  # fmt: skip
            return HTTPStatus.OK, _HTML, _PAGE_POLICY, page.encode()
        if path == "/healthz":
            status = self._snapshot()
            ok, reasons = healthy(status)
            code = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
            answer = json.dumps({"ok": ok, "state": status.state, "reasons": reasons}) + "\n"
            return code, "application/json", _NOTHING, answer.encode()
        if path == "/status.json":
            text = status_json(self._snapshot()) + "\n"
            return HTTPStatus.OK, "application/json", _NOTHING, text.encode()
        if path == "/report":
            found = _bytes(self._report)
            if found is not None:
                return HTTPStatus.OK, _HTML, _REPORT_POLICY, found
            text = "This run has no report yet. `online-swav report --run DIR` writes one.\n"
            return HTTPStatus.NOT_FOUND, _TEXT, _NOTHING, text.encode()
        guide = _bytes(GUIDE) if path == "/docs/health.md" else None
        if guide is not None:
            return HTTPStatus.OK, _TEXT, _NOTHING, guide
        return HTTPStatus.NOT_FOUND, _TEXT, _NOTHING, b"no such page\n"


def _bytes(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError:
        return None


def serve_metrics(
    snapshot: Callable[[], RunStatus], *, host: str, port: int, report: Path | None = None
) -> MetricsServer:
    """Serve `/metrics` and the pages on `host`:`port`; port 0 takes a free one.

    Args:
        snapshot: The newest status; it must not wait for anything.
        host: Address to listen on.
        port: Port.
        report: Where `online-swav report` leaves its file, for `/report`.

    Raises:
        MetricsPortError: If the port is taken, or `host` is not of this machine.
    """
    registry = CollectorRegistry()
    registry.register(StatusCollector(snapshot))
    ProcessCollector(registry=registry)
    metrics: Any = make_wsgi_app(registry)
    pages = Pages(snapshot, report)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        def start(status: str, headers: list[tuple[str, str]]) -> Any:
            return start_response(status, [*headers, *_HEADERS])

        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [("Content-Type", _TEXT), ("Allow", "GET, HEAD")])
            return [b"this page is only to be read\n"]
        answer = metrics if environ.get("PATH_INFO") == "/metrics" else pages
        body: list[bytes] = answer(environ | {"REQUEST_METHOD": "GET"}, start)
        # Of a single part wsgiref would say that the page has no content.
        return [b"", b""] if method == "HEAD" else body

    return MetricsServer(app, host, port)
