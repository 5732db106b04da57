"""One `train` command from start to its last line: the live view or log lines, and the summary."""

from __future__ import annotations

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

PLAIN_EVERY_S = 10.0


class Session:
    """Shows a run while it lasts.

    Args:
        config: The run, already checked.
        log: Logging of all processes.
        live: Draw the live view; else pass the run's log on, with a status line now and then.
        quiet: Show neither; only the summary.
        stop: Set by the signal handlers.
    """

    def __init__(
        self, config: RunConfig, *, log: Logging, live: bool, quiet: bool, stop: threading.Event
    ) -> None:
        self._config = config
        self._log = log
        self._quiet = quiet
        self._stop = stop
        self._console = Console(soft_wrap=True, highlight=False)
        self._view = Live(console=self._console, auto_refresh=False) if live else None
        # Lines of earlier starts in the same run folder are not shown again.
        self._log_at = _size(Path(log.file)) if not live else 0
        self._shown_at = float("-inf")
        self._shown_probe = -1

    def run(self) -> int:
        """Train; the exit code."""
        if not self._log.json:
            self._console.print(f"Starting the run in {self._config.run}")
        try:
            with self._view or nullcontext():
                status = cluster.train(
                    self._config, log=self._log, stop=self._stop, show=self._show
                )
        except MetricsPortError as error:
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                f"online-swav train: {error}"
            )
            return 2
        finally:
            if self._view is None and not self._quiet:
                self._pass_log_on()
        if self._log.json:
            self._console.out(status_json(status), highlight=False)
        else:
            for line in summary_lines(status, self._config.run):
                self._console.out(line, highlight=False)
        return 0

    def _show(self, status: RunStatus) -> None:
        now = time.time()
        if self._view is not None:
            self._view.update(live_panel(status, now), refresh=True)
            return
        if self._quiet:
            return
        self._pass_log_on()
        probed = status.probes[-1].step if status.probes else -1
        if now - self._shown_at >= PLAIN_EVERY_S or probed != self._shown_probe:
            self._shown_at, self._shown_probe = now, probed
            line = status_json(status) if self._log.json else plain_line(status, now)
            self._console.out(line, highlight=False)

    def _pass_log_on(self) -> None:
        """Print the whole lines that the run's processes have logged since the last look."""
        with Path(self._log.file).open("rb") as file:
            file.seek(self._log_at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._log_at += len(whole)
        if whole:
            self._console.out(whole.decode(errors="replace").rstrip("\n"), highlight=False)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
