"""One `train` command from start to its last line: the live view or log lines, and the summary."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.live import Live

from online_swav import cluster
from online_swav.config import RunConfig
from online_swav.console import Logging, live_panel, plain_line, status_json, summary_lines
from online_swav.errors import MetricsPortError
from online_swav.status import RunStatus

logger = logging.getLogger("online_swav")

PLAIN_EVERY_S = 10.0


class Session:
    """Shows a run while it lasts.

    Args:
        config: The run, already checked.
        log_json: Write status lines as JSON.
        live: Draw the live view; else one line now and then.
        level: Log level of the actors.
        stop: Set by the signal handlers.
    """

    def __init__(
        self, config: RunConfig, *, log_json: bool, live: bool, level: int, stop: threading.Event
    ) -> None:
        self._config = config
        self._log_json = log_json
        self._level = level
        self._stop = stop
        self._console = Console()
        self._view = Live(console=self._console, auto_refresh=False) if live else None
        self._shown_at = float("-inf")
        self._shown_probe = -1

    def run(self) -> int:
        """Train; the exit code."""
        log = Logging(
            json=self._log_json, level=self._level, file=str(Path(self._config.run) / "run.log"),
            to_driver=self._view is None,
        )  # fmt: skip
        if self._view is not None:
            self._console.print(f"Starting [bold]{self._config.run}[/bold] ...")
        try:
            with self._view or nullcontext():
                status = cluster.train(self._config, log=log, stop=self._stop, show=self._show)
        except MetricsPortError as error:
            Console(stderr=True).print(f"online-swav train: {error}", style="red")
            return 2
        if self._log_json:
            self._console.out(status_json(status))
        else:
            for line in summary_lines(status, self._config.run):
                self._console.out(line, highlight=False)
        return 0

    def _show(self, status: RunStatus) -> None:
        now = time.time()
        if self._view is not None:
            self._view.update(live_panel(status, now), refresh=True)
            return
        probed = status.probes[-1].step if status.probes else -1
        if now - self._shown_at >= PLAIN_EVERY_S or probed != self._shown_probe:
            self._shown_at, self._shown_probe = now, probed
            line = status_json(status) if self._log_json else plain_line(status, now)
            self._console.out(line, highlight=False)
