"""Curves of a run: a row of numbers every few seconds in `history.jsonl`, of bounded length.

When `most` rows are reached every second one of the older half goes: weeks ago is kept coarsely,
today finely, and the file does not grow.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from online_swav.status import RunStatus

MOST_ROWS = 20_000
_LEARNER = (
    "step", "samples_seen", "images_per_s", "wait_ratio", "step_s", "loss", "loss_ratio",
    "code_entropy_ratio", "view_agreement_ratio", "grad_norm", "lr", "epsilon", "backlog_ratio",
    "near_duplicate_ratio", "data_age_s", "ranks",
)  # fmt: skip


def history_path(run: Path) -> Path:
    """Where a run's curves are."""
    return run / "history.jsonl"


def row(status: RunStatus, now: float) -> dict[str, Any]:
    """The numbers of a snapshot.

    `at` (unix seconds), `generation`, fields of `LearnerStatus` by their names, fields of its
    `signs` (HealthValues) where no field has that name, `verdict`, `shards_unread`, `lag_s`,
    `trained`, `replayed`, `dropped`, `uncommitted`, `probe` (latest accuracy). A number that is
    not known is left out.
    """
    values: dict[str, Any] = {"at": round(now, 1), "generation": status.generation}
    learner = status.learner
    if learner is not None and status.learner_up:
        signs = dataclasses.asdict(learner.signs)
        values |= signs | {name: getattr(learner, name) for name in _LEARNER}
        values["verdict"] = status.health.verdict
    counts = list(status.sources.values())
    oldest = [c.oldest_unread_at for c in counts if c.oldest_unread_at is not None]
    values |= {
        "shards_unread": sum(c.shards.get("unread", 0) for c in counts),
        "lag_s": max(now - min(oldest), 0.0) if oldest else 0.0,
        "trained": sum(c.trained for c in counts),
        "replayed": sum(c.replayed for c in counts),
        "dropped": sum(sum(c.dropped.values()) for c in counts),
        "uncommitted": sum(c.uncommitted for c in counts),
        "probe": status.probes[-1].knn_accuracy if status.probes else None,
    }
    return {name: value for name, value in values.items() if _known(value)}


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


class History:
    """Appends rows, and thins the older half when there are too many.

    Args:
        run: The run folder.
        most: Rows at which the file is thinned.
    """

    def __init__(self, run: Path, *, most: int = MOST_ROWS) -> None:
        self._path = history_path(run)
        self._most = most
        self._rows = sum(1 for _ in read_history(run))

    def add(self, values: dict[str, Any]) -> None:
        """Append a row.

        Raises:
            OSError: If the disk refuses.
        """
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._rows += 1
        if self._rows >= self._most:
            self._thin()

    def _thin(self) -> None:
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        half = len(lines) // 2
        kept = lines[:half:2] + lines[half:]
        staging = self._path.with_name(f".{self._path.name}")
        staging.write_text("".join(kept), encoding="utf-8")
        staging.replace(self._path)
        self._rows = len(kept)


def read_history(run: Path) -> Iterator[dict[str, Any]]:
    """All rows, oldest first; none if the run has left none. Torn lines are skipped."""
    path = history_path(run)
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict) and "at" in values:
                yield values
