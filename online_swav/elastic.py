"""How many ingest actors a run needs: by how long the learner waits, and how far they are ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from online_swav.config import ElasticConfig

Decision = Literal["add", "remove"]
SMOOTHING_S = 5.0


@dataclass(slots=True)
class IngestScaler:
    """Adds an actor while the learner waits, removes one while requests are answered in advance.

    Both signals are smoothed over a few seconds. Between two decisions lies a cool-down; it doubles
    for removals, each time that a removal had to be taken back, so that the number settles.

    Args:
        least: Fewest actors.
        most: Most actors.
        config: Thresholds and the cool-down.
    """

    least: int
    most: int
    config: ElasticConfig
    _waiting: float = 0.0
    _backlog: float = 0.0
    _at: float | None = None
    _decided_at: float | None = None
    _last: Decision | None = None
    _patience: float = 1.0

    def decide(
        self, actors: int, *, wait_ratio: float, backlog_ratio: float, now: float
    ) -> Decision | None:
        """What to do now. Call it about once a second while the learner trains.

        Args:
            actors: Actors there are.
            wait_ratio: Share of its time that the learner waited for images.
            backlog_ratio: Share of its requests that were answered before it asked.
            now: Monotonic seconds.
        """
        if self._at is None or self._decided_at is None:
            self._at = self._decided_at = now
            self._waiting, self._backlog = wait_ratio, backlog_ratio
            return None
        weight = min((now - self._at) / SMOOTHING_S, 1.0)
        self._waiting += weight * (wait_ratio - self._waiting)
        self._backlog += weight * (backlog_ratio - self._backlog)
        self._at = now
        since = now - self._decided_at
        if self._waiting > self.config.add_above_wait and actors < self.most:
            if since >= self.config.cooldown_s:
                self._patience *= 2.0 if self._last == "remove" else 1.0
                return self._done("add", now)
        elif (
            self._backlog > self.config.remove_above_backlog
            and actors > self.least
            and since >= self.config.cooldown_s * self._patience
        ):
            return self._done("remove", now)
        return None

    def _done(self, decision: Decision, now: float) -> Decision:
        self._decided_at, self._last = now, decision
        return decision
