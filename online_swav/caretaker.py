"""Acts on a learner's verdicts: events, the ladder, rollback, giving up. One per rank.

All ranks see the same numbers, but only rank 0 decides; the trainer's vote tells the others, and
each applies the same remedy to its own learner. Rank 0 alone writes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NoReturn

from online_swav.checkpoint import Checkpoints
from online_swav.config import ActConfig
from online_swav.errors import GivenUp, OnlineSwavError
from online_swav.events import Events
from online_swav.finding_events import FindingEvents
from online_swav.learning.findings import Health
from online_swav.learning.learner import Learner, NonFiniteLossError
from online_swav.remedies import REMEDIES, Remedy, load_remedies, save_remedies

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
        self._story = ""
        learner.adjustments = self._remedies.adjustments

    @property
    def counts(self) -> dict[str, int]:
        """What was done since the run was created, by kind."""
        return self._remedies.counts

    def withholds(self, health: Health) -> bool:
        """Whether nothing may be committed with this verdict: the run is about to go back."""
        return self._act.enabled and health.verdict == "collapsed"

    def look(self, health: Health) -> int:
        """Take note of a verdict; the remedy to vote for, as a number. 0: none."""
        self._remedies = self._remedies.unstuck(health)
        if not self._first:
            return 0
        step = self._learner.step_count
        self._findings.note(health.findings, step=step)
        self._findings.note_verdict(health.verdict, step=step)
        self._count_skips()
        self._story = " ".join(f"{f.name} {f.value:.3g} (healthy: {f.healthy})."
                               for f in health.findings)  # fmt: skip
        remedy = self._remedies.next(health, step=step, act=self._act)
        return 0 if remedy is None else 1 + REMEDIES.index(remedy)

    def apply(self, number: int) -> None:
        """Do what rank 0 has voted for; every rank at the same step.

        Raises:
            StartAgain: If the run goes back.
            GivenUp: If every remedy was in vain.
        """
        if number:
            self._take(REMEDIES[number - 1], self._story)

    def nonfinite(self, error: NonFiniteLossError) -> NoReturn:
        """The loss stays NaN or infinite: go back, or give up.

        Raises:
            StartAgain: If the run goes back.
            GivenUp: If that was tried often enough.
            NonFiniteLossError: If the run is not to act.
        """
        if self._first:
            self._count_skips()
        remedy = self._remedies.after_failure(self._act)
        if remedy is None:
            raise error
        self._take(remedy, str(error))
        raise AssertionError(remedy)  # either goes back or gives up

    def committed(self, health: Health) -> None:
        """A checkpoint with this verdict was published."""
        after = self._remedies.recovered(health, step=self._learner.step_count)
        if after != self._remedies:
            self._remedies = after
            if self._first:
                save_remedies(self._run, after)

    # -- one remedy ----------------------------------------------------------------------------

    def _take(self, remedy: Remedy, story: str) -> None:
        step = self._learner.step_count
        last_try = self._remedies.rolled_back_to if self._remedies.rollbacks else None
        self._remedies = self._remedies.taken(remedy, step=step, act=self._act)
        if remedy == "rollback":
            self._go_back(step, story, below=last_try)
        self._tell(remedy, step, story)
        if remedy == "give_up":
            raise GivenUp(self._epitaph(step, story))
        self._learner.adjustments = self._remedies.adjustments

    def _go_back(self, step: int, story: str, *, below: int | None) -> NoReturn:
        if self._first:
            to = self._checkpoints.refuge(below=below)
            target = to.manifest.step if to is not None else 0
            self._remedies = self._remedies.at(target)
            self._tell("rollback", step, story, to_step=target)
            if to is not None:
                self._checkpoints.go_back(to, generation=self._generation)
        raise StartAgain(f"rolled back from step {step}: {story}")

    def _tell(self, remedy: Remedy, step: int, story: str, **fields: float) -> None:
        if not self._first:
            return
        now = self._remedies.adjustments
        save_remedies(self._run, self._remedies)
        self._events.add(
            "action", step=step, kind=remedy, reason=story, lr_factor=now.lr_factor,
            epsilon_factor=now.epsilon_factor, frozen_until_step=now.frozen_until_step, **fields,
        )  # fmt: skip
        logger.warning("action kind=%s step=%d lr_factor=%g epsilon_factor=%g reason=%r",
                       remedy, step, now.lr_factor, now.epsilon_factor, story)  # fmt: skip

    def _count_skips(self) -> None:
        """Skipped updates are the learner's own doing; they are told and counted here."""
        new = self._learner.nonfinite_steps - self._skipped
        if new <= 0:
            return
        self._skipped += new
        self._remedies = self._remedies.counted("skip", new)
        save_remedies(self._run, self._remedies)
        self._events.add("action", step=self._learner.step_count, kind="skip", number=new,
                         reason="loss or gradient not finite")  # fmt: skip

    def _epitaph(self, step: int, story: str) -> str:
        tries = self._act.max_rollbacks
        now = self._remedies.adjustments
        return (
            f"given up at step {step}: {story} The run went back {tries} times, at last to step "
            f"{self._remedies.rolled_back_to} with {now.lr_factor:g} of the rate, and fell again. "
            f"{self._run / 'events.jsonl'} has the story, docs/health.md the findings. To go on, "
            f"change the recipe in a new run folder; remove {self._run / 'remedies.json'} to try "
            "this one once more."
        )
