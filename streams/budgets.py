"""Failure budgets: a source that delivers mostly rubbish is paused, and tried again now and then.

The share of bad samples is taken over about the last `window` fates of a source, from the book's
own totals: a row of `budgets` says where the window begins. Once it is full, its older half is
forgotten. A shard that cannot be read counts as many bad samples as a mean shard of its source has.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from streams.config import BudgetConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Fates:
    """What became of samples and shards of a source, up to now or since a mark."""

    trained: float
    dropped: float
    unreadable: float
    """Quarantined shards."""

    def minus(self, other: _Fates) -> _Fates:
        return _Fates(self.trained - other.trained, self.dropped - other.dropped,
                      self.unreadable - other.unreadable)  # fmt: skip

    def half(self) -> _Fates:
        return _Fates(self.trained / 2, self.dropped / 2, self.unreadable / 2)

    def at_most(self, other: _Fates) -> _Fates:
        return _Fates(min(self.trained, other.trained), min(self.dropped, other.dropped),
                      min(self.unreadable, other.unreadable))  # fmt: skip


_NOTHING = _Fates(0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Budget:
    """One source's row, and what it says now."""

    total: _Fates
    mean_samples: float
    """Of a shard."""
    mark: _Fates = _NOTHING
    """Total at which the window begins."""
    paused_at: float | None = None
    trials: int = 0
    cause: str = ""

    @property
    def window(self) -> _Fates:
        return self.total.minus(self.mark)

    @property
    def bad(self) -> float:
        """Bad samples in the window."""
        return self.window.dropped + self.window.unreadable * self.mean_samples

    @property
    def size(self) -> float:
        """Samples in the window."""
        return self.window.trained + self.bad

    @property
    def share(self) -> float:
        return self.bad / self.size if self.size else 0.0


class Budgets:
    """The budgets of one book. Every method runs inside a transaction of its ledger.

    Args:
        db: The book.
        config: Share, window, trials.
        clock: Unix seconds; a pause survives a restart.
    """

    def __init__(
        self, db: sqlite3.Connection, config: BudgetConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._db = db
        self._config = config
        self._clock = clock

    def review(self) -> set[str]:
        """Pause, try again, or release sources by what the book says now; those not to lease."""
        closed = set()
        for source, budget in budgets_of(self._db, self._config).items():
            paused_at = budget.paused_at
            judged = budget.size >= self._config.min_samples
            now = self._clock()
            if judged and budget.share > self._config.max_bad_share:
                cause = (
                    f"{budget.bad:.0f} of its last {budget.size:.0f} samples could not be used "
                    f"({budget.share:.0%}; the budget is {self._config.max_bad_share:.0%})"
                )
                logger.warning("source_paused source=%s cause=%r retry_s=%.0f", source, cause,
                               self._config.retry_s)  # fmt: skip
                # The window starts anew: the next verdict is about the trial's samples alone.
                self._set(source, budget.total, paused_at=now, cause=cause)
                closed.add(source)
            elif paused_at is not None and judged:
                logger.info("source_released source=%s bad_share=%.3f", source, budget.share)
                self._set(source, budget.mark)
            elif paused_at is not None and not 0 <= now - paused_at < self._config.retry_s:
                trials = math.ceil(self._config.min_samples / budget.mean_samples)
                logger.info("source_tried source=%s shards=%d", source, trials)
                self._set(source, budget.mark, paused_at=now, trials=trials, cause=budget.cause)
            elif paused_at is not None and budget.trials == 0:
                closed.add(source)
            elif paused_at is None and budget.size >= self._config.window:
                self._set(source, budget.total.minus(budget.window.half()))
        return closed

    def begin(self) -> None:
        """Start every window anew: a rollback forgets good samples, but no unreadable shard."""
        for source, budget in budgets_of(self._db, self._config).items():
            self._set(source, budget.total, paused_at=budget.paused_at, trials=budget.trials,
                      cause=budget.cause)  # fmt: skip

    def leased(self, source: str) -> None:
        """A shard of `source` went to a reader."""
        self._db.execute(
            "UPDATE budgets SET trials = trials - 1 "
            "WHERE source = ? AND paused_at IS NOT NULL AND trials > 0", (source,),
        )  # fmt: skip

    def release(self, source: str) -> bool:
        """Forget the past of a source, and its pause; whether it was paused."""
        budget = budgets_of(self._db, self._config).get(source)
        if budget is None:
            return False
        self._set(source, budget.total)
        return budget.paused_at is not None

    def _set(
        self, source: str, mark: _Fates, *,
        paused_at: float | None = None, trials: int = 0, cause: str = "",
    ) -> None:  # fmt: skip
        self._db.execute(
            "INSERT OR REPLACE INTO budgets (source, trained, dropped, unreadable, paused_at, "
            "trials, cause) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (source, mark.trained, mark.dropped, mark.unreadable, paused_at, trials, cause),
        )


def budgets_of(db: sqlite3.Connection, config: BudgetConfig) -> dict[str, _Budget]:
    """What the book says of each source's budget."""
    rows = {
        source: rest
        for source, *rest in db.execute(
            "SELECT source, trained, dropped, unreadable, paused_at, trials, cause FROM budgets"
        )
    }
    dropped = dict(db.execute(
        "SELECT source, sum(dropped) FROM drop_totals WHERE reason <> 'skipped' GROUP BY source"
    ))  # fmt: skip
    budgets = {}
    for source, trained, known, sized, unreadable in db.execute(
        "SELECT source, trained, known, sized, quarantined - ruled_out FROM source_totals"
    ):
        # Before the first shard is read: four unreadable ones are a verdict.
        mean = max(known / sized if sized else config.min_samples / 4, 1.0)
        total = _Fates(trained, dropped.get(source, 0), unreadable)
        row = rows.get(source)
        if row is None:
            budgets[source] = _Budget(total, mean)
        else:
            # A second try of shards lowers a total: the window begins there then.
            mark = _Fates(*row[:3]).at_most(total)
            budgets[source] = _Budget(total, mean, mark, *row[3:])
    return budgets


def closed_sources(db: sqlite3.Connection) -> set[str]:
    """Sources of which nothing can be leased now, as of the last review."""
    rows = db.execute("SELECT source FROM budgets WHERE paused_at IS NOT NULL AND trials = 0")
    return {source for (source,) in rows}
