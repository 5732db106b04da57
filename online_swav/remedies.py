"""What a run does by itself when it is unwell: which step is next, and what was done so far.

    not finite, again and again   roll back, lower rate
    stuck at log K                refreeze the prototypes; then sharper epsilon; then half the rate
    collapsed                     publish nothing, roll back, lower rate

After `act.max_rollbacks` in vain the run gives up. `remedies.json` in the run folder is the truth:
what was changed survives every crash, and is written before it is done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from online_swav.config import ActConfig
from online_swav.errors import CheckpointError
from online_swav.events import ACTION_KINDS
from online_swav.learning.adjustments import Adjustments
from online_swav.learning.findings import Health

Remedy = Literal["rollback", "refreeze", "epsilon", "rate", "give_up"]
LADDER: tuple[Remedy, ...] = ("refreeze", "epsilon", "rate")
REMEDIES: tuple[Remedy, ...] = ("rollback", *LADDER, "give_up")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """What was done, and what it left changed."""

    adjustments: Adjustments = field(default_factory=Adjustments)
    """Changes of the recipe that are in force."""
    rollbacks: int = 0
    """In a row: no checkpoint but collapsed ones lies beyond the step that was rolled back from."""
    rolled_back_from: int = -1
    """Step of the newest rollback; -1 without any."""
    rolled_back_to: int = -1
    """Step it went to."""
    rung: int = 0
    """Rungs of the ladder that were taken since the last checkpoint that was long healthy."""
    rung_step: int = -1
    """Step at which the newest one was taken; -1 without any."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACTION_KINDS, 0))
    """What was done since the run was created, by kind."""

    def next(self, health: Health, *, step: int, act: ActConfig) -> Remedy | None:
        """What to do about this verdict now; None: nothing, or not yet."""
        if not act.enabled:
            return None
        if health.verdict == "collapsed":
            return self.after_failure(act)
        stuck = any(finding.name == "stuck_at_log_k" for finding in health.findings)
        patient = self.rung_step >= 0 and step - self.rung_step < act.patience_steps
        if not stuck or patient or self.rung >= len(LADDER):
            return None
        return LADDER[self.rung]

    def after_failure(self, act: ActConfig) -> Remedy | None:
        """What to do when training cannot go on from here: collapse, or no finite loss."""
        if not act.enabled:
            return None
        return "rollback" if self.rollbacks < act.max_rollbacks else "give_up"

    def taken(self, remedy: Remedy, *, step: int, act: ActConfig) -> Remedies:
        """The same with the remedy taken at `step`."""
        now = self.adjustments
        if remedy in ("rollback", "rate"):
            now = replace(now, lr_factor=now.lr_factor * act.lr_factor)
        if remedy == "epsilon":
            now = replace(now, epsilon_factor=now.epsilon_factor * act.epsilon_factor)
        if remedy == "refreeze":
            now = replace(now, frozen_until_step=step + act.refreeze_steps)
        after = replace(self.counted(remedy), adjustments=now)
        if remedy in LADDER:
            return replace(after, rung=self.rung + 1, rung_step=step)
        if remedy == "rollback":
            return replace(after, rollbacks=self.rollbacks + 1, rolled_back_from=step)
        return after

    def at(self, step: int) -> Remedies:
        """The same, with the step that the rollback goes to; a freeze lasts as long from there."""
        left = max(self.adjustments.frozen_until_step - self.rolled_back_from, 0)
        frozen = replace(self.adjustments, frozen_until_step=step + left if left else 0)
        return replace(self, rolled_back_to=step, rung_step=-1, adjustments=frozen)

    def counted(self, kind: str, number: int = 1) -> Remedies:
        """The same with `number` more of `kind` counted."""
        return replace(self, counts=self.counts | {kind: self.counts.get(kind, 0) + number})

    def recovered(self, health: Health, *, step: int, act: ActConfig) -> Remedies:
        """After a checkpoint with this verdict: what was tried counts as a success.

        A fall is forgiven by a checkpoint beyond it that is not collapsed; the ladder begins anew
        after a healthy one, `act.patience_steps` after its last rung. What they changed stays.
        """
        after = self
        if health.verdict != "collapsed" and step > self.rolled_back_from:
            after = replace(after, rollbacks=0)
        if health.verdict == "ok" and step - self.rung_step >= act.patience_steps:
            after = replace(after, rung=0)
        return after

    def rethought(self, changed: Sequence[str]) -> Remedies:
        """After the user has changed these options: what the run itself had made of them is over.

        So are its vain attempts, which were those of another recipe.
        """
        now = self.adjustments
        if "learner.optim.lr" in changed:
            now = replace(now, lr_factor=1.0)
        if any(path.startswith("learner.codes.epsilon.") for path in changed):
            now = replace(now, epsilon_factor=1.0)
        return replace(self, adjustments=now, rollbacks=0, rung=0, rung_step=-1)


def load_remedies(run: Path) -> Remedies:
    """Those of a run; none in a new one.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = _path(run)
    if not path.exists():
        return Remedies()
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        raw["adjustments"] = Adjustments(**raw["adjustments"])
        return Remedies(**raw)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). It holds what the run changed of its own recipe; "
            "remove it to go on with the recipe as configured.",
            path=path,
        ) from error


def save_remedies(run: Path, remedies: Remedies) -> None:
    """Write them, whole or not at all.

    Raises:
        CheckpointError: If the disk refuses.
    """
    path = _path(run)
    staging = path.with_name(f".{path.name}")
    try:
        staging.write_text(json.dumps(asdict(remedies), indent=1) + "\n")
        staging.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; make room or fix the permissions",
            path=path,
        ) from error


def _path(run: Path) -> Path:
    return run / "remedies.json"
