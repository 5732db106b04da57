"""A hook for users' own code at the named points of the loop: lineage logs, experiment trackers.

    --observer my_package.my_module:MyObserver

names a class that is built once in every learner rank, as `MyObserver(run=Path, rank=int,
generation=int)`, and whose `at` is called at every point. It runs inside the step: keep it short.
An error that it raises is a crash of the learner.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from online_swav.errors import ConfigError
from streams.shard import Origin

Point = Literal[
    "before_claim",  # origins: of the batch at hand; step: the one about to be made
    "after_claim",  # origins: those granted to that step
    "after_step",  # origins: those whose gradient is in the weights of `step`
    "after_flush",  # rank 0: the book is durable, the checkpoint of `step` not yet written
    "after_rename",  # rank 0: the checkpoint is in place, `latest` still names the one before
    "after_publish",  # rank 0: `latest` names the checkpoint
]


class Observer(Protocol):
    """What the trainer calls."""

    def at(self, point: Point, *, step: int, origins: Sequence[Origin]) -> None:
        """The loop has reached `point`. `origins` is empty at the points of a checkpoint."""


class SilentObserver:
    """Observes nothing."""

    def at(self, point: Point, *, step: int, origins: Sequence[Origin]) -> None:
        """See `Observer`."""


def load_observer(name: str | None, *, run: Path, rank: int, generation: int) -> Observer:
    """The observer of `--observer`, or a silent one.

    Raises:
        ConfigError: If there is no such module or class.
    """
    if name is None:
        return SilentObserver()
    observer: Observer = find_observer(name)(run=run, rank=rank, generation=generation)
    return observer


def find_observer(name: str) -> type:
    """The class that `--observer` names.

    Raises:
        ConfigError: If there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"--observer {name}: give MODULE:CLASS")
    try:
        found: type = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"--observer {name}: {error}. The module must be importable (see PYTHONPATH)."
        ) from error
    return found
