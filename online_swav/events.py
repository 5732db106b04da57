"""The story of a run: one JSON line per event in `events.jsonl`, for people and for the report.

    {"at": 1764037802.1, "event": "action", "step": 1200, "kind": "rollback", ...}

Lines are appended whole, by any process of the run; a line that is torn by a full disk is skipped
when reading.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

EventName = Literal[
    "started",  # a learner group begins: step, generation, ranks
    "changed",  # options that decide the weights, by the user: options
    "resumed",  # from which checkpoint: step, samples
    "stopped",  # in order: step, reason
    "failed",  # with what its message says: reason
    "verdict",  # the verdict changed: before, after
    "finding_raised",  # name, value, shown, healthy, remedy, subject, advice
    "finding_cleared",  # name, value, lasted_s, subject
    "checkpoint",  # step, verdict, seconds, size_bytes
    "checkpoint_failed",  # reason
    "published",  # an encoder went to published/: step
    "probe",  # step, knn_accuracy
    "action",  # the run helped itself: kind (ACTION_KINDS), reason, and what it did
    "restarted",  # component (learner, ingest), reason
    "quarantined",  # source, shards, images: how many more since the last such event
    "source_paused",  # source, reason
    "source_resumed",  # source
    "preflight",  # level (warning, refusal), check, text
]

ACTION_KINDS = ("skip", "rollback", "refreeze", "epsilon", "rate", "give_up")
"""What a run does by itself. Closed set: these words are labels of metrics.

`skip` an update that is not finite; `rollback` to the newest healthy checkpoint with a lower rate;
the ladder of a loss stuck at log K: `refreeze` the prototypes, sharper `epsilon`, half the `rate`;
`give_up` stops the run.
"""


def events_path(run: Path) -> Path:
    """Where a run's events are."""
    return run / "events.jsonl"


class Events:
    """Appends to a run's events.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        self._path = events_path(run)

    def add(self, event: EventName, **fields: Any) -> None:
        """Append a line. A disk that refuses does not end the run: the log says so."""
        entry = {"at": round(time.time(), 3), "event": event} | {
            name: _plain(value) for name, value in fields.items()
        }
        line = json.dumps(entry, ensure_ascii=True) + "\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("event_lost event=%s error=%r", event, str(error))


def read_events(run: Path) -> Iterator[dict[str, Any]]:
    """All events of a run, oldest first; none if it has left none."""
    path = events_path(run)
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and "event" in entry and "at" in entry:
                yield entry


def _plain(value: Any) -> Any:
    """JSON has no NaN: such a number becomes a word."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
