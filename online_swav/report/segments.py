"""Stretches of time in which something stayed the same, from rows of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SHORTEST_STOP_S = 60.0
UNUSUAL = 6.0
"""Rows that are so many times farther apart than their neighbours have a stop between them."""


@dataclass(frozen=True, slots=True)
class Segment:
    """From when until when it had this value; unix seconds."""

    start: float
    end: float
    value: str


def stops(times: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the run stood before each row; times ascend.

    Rows of long ago are kept coarsely (`online_swav.history`), hence the neighbours decide what is
    unusual, not the whole.
    """
    steps = np.diff(times)
    before = np.append(np.inf, steps[:-1])
    after = np.append(steps[1:], np.inf)
    unusual = steps > np.maximum(UNUSUAL * np.minimum(before, after), SHORTEST_STOP_S)
    return np.append(False, unusual)[: len(times)]


def segments(moments: Sequence[tuple[float, str]]) -> list[Segment]:
    """Neighbours of one value as one segment; it ends where the next begins, or at a stop."""
    found: list[Segment] = []
    stood = stops(np.array([at for at, _ in moments], dtype=np.float64))
    for (at, value), stop in zip(moments, stood.tolist(), strict=True):
        if found and not stop:
            last = found.pop()
            found.append(Segment(last.start, at, last.value))
            if value == last.value:
                continue
        found.append(Segment(at, at, value))
    return found


def verdict_segments(history: Sequence[dict[str, Any]]) -> list[Segment]:
    """The verdict over time."""
    return segments([(row["at"], str(row["verdict"])) for row in history if "verdict" in row])


def reporting_segments(history: Sequence[dict[str, Any]]) -> list[Segment]:
    """When a learner reported."""
    return segments([(row["at"], "") for row in history if "step" in row])
