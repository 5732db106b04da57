"""Acts on a learner's verdicts: events, the ladder, rollback, giving up. One per rank.

Rank 0 decides and writes; the trainer's vote tells the other ranks, and each applies the same
remedy to its own learner.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NoReturn

from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import ActConfig
from online_swav.errors import CheckpointError, GivenUp, OnlineSwavError
from online_swav.events import Events
from online_swav.finding_events import FindingEvents
from online_swav.learning.findings import Health
from online_swav.learning.learner import Learner, NonFiniteLossError
from online_swav.remedies import REMEDIES, Remedies, Remedy, load_remedies, save_remedies

logger = logging.getLogger(__name__)


class StartAgain(OnlineSwavError):
    """The run goes back to an earlier checkpoint: the learners start again from the newest one."""


class Caretaker:
    """See the module.

    Args:
        run: The run folder.
        act: What may be done.
        learner: Of this rank; gets the adjustments that are in force.
        checkpoints: Where to go back to.
        rank: Rank 0 decides and writes.
        generation: Of this start of the learners.
    """

    def __init__(
        self, *, run: Path, act: ActConfig, learner: Learner, checkpoints: Checkpoints,
        rank: int, generation: int,
    ) -> None:  # fmt: skip
        self._run = run
        self._act = act
        self._learner = learner
        self._checkpoints = checkpoints
        self._first = rank == 0
        self._generation = generation
        self._events = Events(run)
        self._findings = FindingEvents(self._events)
        self._remedies = load_remedies(run)
        self._skipped = learner.nonfinite_steps
        self._story = "" if self._first else "rank 0 says why."
        learner.adjustments = self._remedies.adjustments

    @property
    def counts(self) -> dict[str, int]:
        """What was done since the run was created, by kind."""
        return self._remedies.counts

    def withholds(self, health: Health) -> bool:
        """Whether nothing may be committed with this verdict: the run is about to go back."""
        return self._act.enabled and health.verdict == "collapsed"

    def look(self, health: Health) -> int:
        """Take note of a verdict; what this rank votes for, as a number. 0: nothing."""
        if not self._first:
            return 0
        step = self._learner.step_count
        self._findings.note(health.findings, step=step)
        self._findings.note_verdict(health.verdict, step=step)
        self._count_skips()
        self._story = " ".join(f"{f.name} {f.value:.3g} (healthy: {f.healthy})."
                               for f in health.findings)  # fmt: skip
        return self._number(self._remedies.next(health, step=step, act=self._act))

    def fail(self, error: NonFiniteLossError) -> int:
        """Training cannot go on, on any rank; what this rank votes for. 0: nothing can be done."""
        if not self._first:
            return 0
        self._count_skips()
        self._story = str(error)
        return self._number(self._remedies.after_failure(self._act))

    def apply(self, number: int) -> None:
        """Do what rank 0 has voted for; every rank at the same step.

        Raises:
            StartAgain: If the run goes back.
            GivenUp: If every remedy was in vain.
            SupersededError: If a newer generation works on the run.
        """
        if not number:
            return
        remedy = REMEDIES[number - 1]
        step = self._learner.step_count
        if self._first:
            self._checkpoints.require(self._generation)
        if remedy == "rollback":
            self._go_back(step)
        elif remedy == "give_up":
            self._give_up(step)
        self._remedies = self._remedies.taken(remedy, step=step, act=self._act)
        self._tell(remedy, step)
        self._learner.adjustments = self._remedies.adjustments

    def committed(self, health: Health) -> None:
        """A checkpoint with this verdict was published; rank 0 alone is told."""
        after = self._remedies.recovered(health, step=self._learner.step_count, act=self._act)
        if after != self._remedies:
            self._remedies = after
            self._save()

    # -- one remedy ----------------------------------------------------------------------------

    def _go_back(self, step: int) -> NoReturn:
        """Move `latest` back; what was learned since then is forgotten at the next start."""
        before = self._remedies
        self._remedies = before.taken("rollback", step=step, act=self._act)
        if self._first:
            to = self._refuge(before)  # None: the very beginning, of a run without a checkpoint
            target = to.manifest.step if to is not None else 0
            self._remedies = self._remedies.at(target)
            self._tell("rollback", step, to_step=target)
            if to is not None:
                self._checkpoints.go_back(to, generation=self._generation)
        raise StartAgain(f"rolled back from step {step}: {self._story}")

    def _refuge(self, before: Remedies) -> Checkpoint | None:
        return self._checkpoints.refuge(below=before.rolled_back_to if before.rollbacks else None)

    def _give_up(self, step: int) -> NoReturn:
        tries, back_to = self._remedies.rollbacks, self._remedies.rolled_back_to
        self._remedies = self._remedies.taken("give_up", step=step, act=self._act)
        self._tell("give_up", step)
        why = (
            f"The run went back {tries} times, at last to step {back_to}, and fell again."
            if tries >= max(self._act.max_rollbacks, 1)
            else "There is no checkpoint that it could go back to."
        )
        raise GivenUp(
            f"given up at step {step}: {self._story} {why} The rate is down to "
            f"{self._remedies.adjustments.lr_factor:g} of the configured one. "
            f"{self._run / 'events.jsonl'} has the story, docs/health.md the findings. To go on, "
            "start the same command with --change and the options to change."
        )

    def _tell(self, remedy: Remedy, step: int, **fields: float) -> None:
        if not self._first:
            return
        self._save()
        now = self._remedies.adjustments
        self._events.add(
            "action", step=step, kind=remedy, reason=self._story, lr_factor=now.lr_factor,
            epsilon_factor=now.epsilon_factor, frozen_until_step=now.frozen_until_step, **fields,
        )  # fmt: skip
        logger.warning("action kind=%s step=%d lr_factor=%g epsilon_factor=%g reason=%r",
                       remedy, step, now.lr_factor, now.epsilon_factor, self._story)  # fmt: skip

    def _count_skips(self) -> None:
        """Skipped updates are the learner's own doing; they are told and counted here."""
        new = self._learner.nonfinite_steps - self._skipped
        if new <= 0:
            return
        self._skipped += new
        self._remedies = self._remedies.counted("skip", new)
        self._save()
        self._events.add("action", step=self._learner.step_count, kind="skip", number=new,
                         reason="loss or gradient not finite")  # fmt: skip

    def _save(self) -> None:
        """A full disk is no reason to end here: checkpoints fail soon, and say what to do."""
        try:
            save_remedies(self._run, self._remedies)
        except CheckpointError as error:
            logger.error("remedies_not_saved error=%r", str(error))

    def _number(self, remedy: Remedy | None) -> int:
        """What to vote for; it must be possible, since the other ranks cannot know."""
        if remedy is None:
            return 0
        nowhere = remedy == "rollback" and self._refuge(self._remedies) is None
        if nowhere and self._checkpoints.latest() is not None:  # all are collapsed
            remedy = "give_up"
        return 1 + REMEDIES.index(remedy)
