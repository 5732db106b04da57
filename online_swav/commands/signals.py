"""SIGINT and SIGTERM as a wish to stop."""

from __future__ import annotations

import signal
import threading


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` on the first signal; a second one interrupts at once."""

    def handle(_signum: int, _frame: object) -> None:
        if stop.is_set():  # a second signal means now
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
