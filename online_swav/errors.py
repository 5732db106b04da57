"""Errors of a run, each with what to do about it.

OnlineSwavError
    ConfigError         an option, a file or a folder the user gave is wrong (exit 2)
    MetricsPortError    the metrics port cannot be opened, though the checks passed (exit 2)
    CheckpointError     a checkpoint, or what belongs to it, cannot be written or read (exit 1)
    SupersededError     a learner is left over; it ends, and the run goes on
    RunFailed           the learners ended with an error that its message explains (exit 1)
        GivenUp         unwell, and every remedy was in vain (exit 3)
"""

from __future__ import annotations

from pathlib import Path


class OnlineSwavError(Exception):
    """Anything that a run reports in words."""


class ConfigError(OnlineSwavError):
    """An option, a file or a folder that the user gave is wrong."""


class MetricsPortError(OnlineSwavError):
    """The metrics port cannot be opened."""


class CheckpointError(OnlineSwavError):
    """A checkpoint cannot be written or read. `path` names it."""

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class SupersededError(OnlineSwavError):
    """This learner is left over: a newer generation works on the run."""


class RunFailed(OnlineSwavError):
    """The learners ended with an error that its message explains."""


class GivenUp(RunFailed):
    """The representation is unwell, and every remedy was in vain; the message is the story."""
