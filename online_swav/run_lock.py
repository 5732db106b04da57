"""One driver per run folder: a lock that the kernel gives back when its process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from online_swav.errors import ConfigError

_NAME = "run.lock"


@contextmanager
def locked_run(run: Path) -> Iterator[None]:
    """Hold the run folder.

    Raises:
        ConfigError: If another process holds it; it is named.
    """
    path = run / _NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{run} is in use by process {_pid(path)}; stop it first, or give another --run"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(run: Path) -> str | None:
    """The process that holds the run folder now, as text; None if nobody does."""
    path = run / _NAME
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _pid(path)
    return None


def _pid(path: Path) -> str:
    return path.read_text().strip() or "(unknown)"
