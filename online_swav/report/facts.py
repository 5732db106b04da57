"""What a run folder says of its run. Whatever is missing or damaged is left out, and said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import RunConfig, load_yaml
from online_swav.console import status_from_json
from online_swav.events import read_events
from online_swav.history import read_history
from online_swav.status import ProbeStatus, RunStatus
from online_swav.wording import OLD_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the sections are made of, but the images."""

    run: Path
    config: RunConfig
    now: float
    """When the report is made, unix seconds."""
    status: RunStatus | None
    """The newest snapshot; None for a run that left none."""
    status_at: float
    """When it was written, unix seconds."""
    events: tuple[dict[str, Any], ...]
    """Oldest first."""
    history: tuple[dict[str, Any], ...]
    """Oldest first."""
    checkpoints: tuple[Checkpoint, ...]
    """Those that are whole, oldest first."""
    probes: tuple[ProbeStatus, ...]
    """Of the surviving lineage, oldest first."""
    adjustments: dict[str, Any]
    """What the run has changed of its own recipe."""

    @property
    def newest(self) -> Checkpoint | None:
        """The newest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def ended(self) -> bool:
        """Whether the run stopped in order or failed."""
        return self.status is not None and self.status.state in ("stopped", "failed")

    @property
    def live(self) -> bool:
        """Whether the run writes its status now."""
        return self.status is not None and not self.ended and self.now - self.status_at <= OLD_S


def gather(run: Path, *, now: float) -> Facts:
    """Read a run folder.

    Raises:
        ConfigError: If its config cannot be read.
    """
    checkpoints = tuple(Checkpoints(run, keep=1).whole())
    status, status_at = _status(run)
    return Facts(
        run=run.resolve(), config=load_yaml(run / "config.yaml", RunConfig()), now=now,
        status=status, status_at=status_at,
        events=tuple(e for e in read_events(run) if isinstance(e["at"], int | float)),
        history=_history(run),
        checkpoints=checkpoints, probes=_probes(status, checkpoints), adjustments=_adjustments(run),
    )  # fmt: skip


def _history(run: Path) -> tuple[dict[str, Any], ...]:
    rows = (row for row in read_history(run) if isinstance(row["at"], int | float))
    return tuple(sorted(rows, key=lambda row: float(row["at"])))


def _status(run: Path) -> tuple[RunStatus | None, float]:
    path = run / "status.json"
    try:
        return status_from_json(path.read_text()), path.stat().st_mtime
    except (OSError, ValidationError):
        return None, 0.0


def _probes(
    status: RunStatus | None, checkpoints: tuple[Checkpoint, ...]
) -> tuple[ProbeStatus, ...]:
    """The snapshot has the newest; a run that left none has them in its checkpoints."""
    if status is not None and status.probes:
        return status.probes
    if not checkpoints:
        return ()
    return tuple(
        ProbeStatus(
            step=int(p["step"]), measured_at=p["measured_at"], knn_accuracy=p["knn_accuracy"]
        )
        for p in checkpoints[-1].manifest.probes
    )


def _adjustments(run: Path) -> dict[str, Any]:
    try:
        raw = json.loads((run / "remedies.json").read_text())["adjustments"]
        return dict(raw)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
