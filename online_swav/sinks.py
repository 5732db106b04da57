"""Optional places for a run's curves beside `history.jsonl`, whose numbers they get.

Where a library (`sink_libraries.py`) logs in and to which server it talks is its own environment's
business: `WANDB_MODE`, `WANDB_PROJECT`, `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.sink_libraries import MlflowSink, TensorBoardSink, WandbSink

logger = logging.getLogger(__name__)

MOST_WAITING = 100
"""Rows that wait for a slow server; further ones are dropped."""
CLOSING_S = 15.0
_BESIDES = ("at", "step", "generation")


class Sink(Protocol):
    """One place for curves."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Add the numbers of one step. Steps may go back, as a run does that is rolled back."""

    def close(self) -> None:
        """Hand over what is not yet written."""


class Sinks:
    """All sinks of a run, in a thread of their own: a server that is slow stops nothing.

    A sink that fails, at its start or later, is dropped with one line in the log.

    Args:
        openers: Makes each sink, by name; called in the thread, at the first row.
    """

    def __init__(self, openers: Mapping[str, Callable[[], Sink]]) -> None:
        self._openers = openers
        self._sinks: dict[str, Sink] = {}
        self._rows: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(MOST_WAITING)
        self._last_step: int | None = None
        self._behind = False
        self._thread: threading.Thread | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row of `history.row` on, if it is of another step than the last. Never waits."""
        step = row.get("step")
        if not self._openers or step is None or step == self._last_step:
            return
        self._last_step = step
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="sinks", daemon=True)
            self._thread.start()
        try:
            self._rows.put_nowait((numbers(row), int(step)))
        except queue.Full:
            if not self._behind:
                logger.warning("sinks_behind: rows are dropped, %d wait", MOST_WAITING)
            self._behind = True

    def close(self, *, timeout_s: float = CLOSING_S) -> None:
        """Write what waits and close the sinks, as far as that takes no longer than this."""
        if self._thread is None:
            return
        deadline = time.monotonic() + timeout_s
        try:
            self._rows.put(None, timeout=timeout_s)
        except queue.Full:
            pass
        else:
            self._thread.join(timeout=max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            logger.warning("sinks_left_behind: not finished within %.0f s", timeout_s)

    def _write(self) -> None:
        for name, opener in self._openers.items():
            self._try(name, partial(self._open, name, opener))
        while (entry := self._rows.get()) is not None:
            for name, sink in list(self._sinks.items()):
                self._try(name, partial(sink.log, *entry))
        for name, sink in list(self._sinks.items()):
            self._try(name, sink.close)

    def _open(self, name: str, opener: Callable[[], Sink]) -> None:
        self._sinks[name] = opener()

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of any library: none of them may end a run
            self._sinks.pop(name, None)
            logger.warning("sink_dropped sink=%s error=%r", name, str(error))


_CLASSES: dict[str, Callable[[RunConfig], Sink]] = {
    "tensorboard": TensorBoardSink, "wandb": WandbSink, "mlflow": MlflowSink,
}  # fmt: skip


def open_sinks(config: RunConfig) -> Sinks:
    """The sinks of `config.sinks`; nothing is imported before the first row."""
    return Sinks({name: partial(_CLASSES[name], config) for name in config.sinks})


def require_libraries(sinks: Sequence[str]) -> None:
    """Refuse a sink whose library, and extra, of the same name is not installed. Imports none.

    Raises:
        ConfigError: Names the extra to install.
    """
    for name in sinks:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder wandb/ of some run is no library
            raise ConfigError(
                f"--sinks {name}: its library is not installed; pip install 'online-swav[{name}]'"
            )


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, without those that say where it belongs."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in _BESIDES and isinstance(value, int | float)
        and not isinstance(value, bool) and math.isfinite(value)
    }  # fmt: skip
