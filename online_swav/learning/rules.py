"""Rules that turn numbers into findings, with hysteresis. Generic: the learner's and the run's.

A rule reads a number off some signals and compares it with a limit. The finding is raised when the
number has been beyond the limit for `hold`, and cleared when it has been back, by a margin, for as
long: a number that dances around its limit is one finding, not a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from online_swav.learning.findings import Finding

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[S]):
    """One finding and when it is raised."""

    name: str
    """One of `FINDING_NAMES`."""
    read: Callable[[S], float | Mapping[str, float] | None]
    """The number; None while it is not known, which accuses nobody. A mapping: one per subject."""
    unhealthy: Literal["above", "below"]
    """On which side of the limit."""
    limit: Callable[[S], float]
    """Beyond it the number is unhealthy."""
    margin: float = 0.1
    """Share of the limit by which the number must be back before the finding is cleared."""
    hold: float = 0.0
    """How long the number must be beyond, or back: steps, or seconds for the run's rules."""
    applies: Callable[[S], bool] = lambda _: True
    """Whether the rule holds at all now; false clears its finding."""
    healthy: str
    """The healthy range in words; `{limit}` stands for the limit."""
    remedy: str
    """What to do, naming the option to change."""
    words: Callable[[float], str] | None = None
    """How value and limit are said; None: as numbers."""
    collapses: Callable[[S, float], bool] = lambda _signals, _value: False
    """Whether the number alone means a collapsed encoder."""
    advice: bool = False
    """Whether it is told without making the verdict worse: the weights themselves are well."""

    def beyond(self, signals: S, value: float) -> bool:
        """Whether the number is unhealthy."""
        limit = self.limit(signals)
        return value > limit if self.unhealthy == "above" else value < limit

    def back(self, signals: S, value: float) -> bool:
        """Whether it is healthy again, by the margin."""
        limit = self.limit(signals)
        room = self.margin * abs(limit)
        return value <= limit - room if self.unhealthy == "above" else value >= limit + room


@dataclass(slots=True)
class _Track:
    """What is known of one rule and subject."""

    beyond_since: float | None = None
    began: tuple[float, int] = (0.0, 0)
    back_since: float | None = None
    active: bool = False
    value: float = 0.0


@dataclass(slots=True)
class Judge(Generic[S]):
    """Applies rules again and again, and remembers since when each number is beyond its limit.

    Args:
        rules: In the order in which their findings are listed.
    """

    rules: Sequence[Rule[S]]
    _tracks: dict[tuple[str, str], _Track] = field(default_factory=dict)

    def judge(self, signals: S, *, at: float, now: float, step: int) -> tuple[Finding, ...]:
        """The findings that are raised now; those that mean collapse first.

        Args:
            signals: What the rules read.
            at: The clock of `Rule.hold`: steps or seconds; never runs back but for a rollback.
            now: Unix seconds, for `Finding.since`.
            step: For `Finding.since_step`.
        """
        found: list[Finding] = []
        for rule in self.rules:
            numbers = dict(_numbers(rule, signals)) if rule.applies(signals) else {}
            subjects = numbers.keys() | {s for name, s in self._tracks if name == rule.name}
            for subject in sorted(subjects):
                track = self._tracks.setdefault((rule.name, subject), _Track())
                self._follow(rule, signals, numbers.get(subject), track, at, (now, step))
                if track.active:
                    found.append(self._finding(rule, signals, track, subject))
        found.sort(key=lambda finding: (not finding.collapse, finding.advice))
        return tuple(found)

    @staticmethod
    def _follow(
        rule: Rule[S], signals: S, value: float | None, track: _Track, at: float,
        moment: tuple[float, int],
    ) -> None:  # fmt: skip
        if value is None:  # nothing to accuse anybody of
            track.active, track.beyond_since, track.back_since = False, None, None
            return
        track.value = value
        if rule.beyond(signals, value):
            if track.beyond_since is None:
                track.beyond_since = at
                if not track.active:
                    track.began = moment
            track.back_since = None
            track.active = track.active or at - track.beyond_since >= rule.hold
            return
        track.beyond_since = None
        if not rule.back(signals, value):
            track.back_since = None
        elif track.active:
            track.back_since = at if track.back_since is None else track.back_since
            if at - track.back_since >= rule.hold:
                track.active, track.back_since = False, None

    @staticmethod
    def _finding(rule: Rule[S], signals: S, track: _Track, subject: str) -> Finding:
        return Finding(
            name=rule.name,
            value=track.value,
            shown=rule.words(track.value) if rule.words else "",
            healthy=rule.healthy.format(limit=(rule.words or "{:.3g}".format)(rule.limit(signals))),
            remedy=rule.remedy,
            collapse=rule.collapses(signals, track.value),
            advice=rule.advice,
            since=track.began[0],
            since_step=track.began[1],
            subject=subject,
        )


def _numbers(rule: Rule[S], signals: S) -> Iterable[tuple[str, float]]:
    value = rule.read(signals)
    if isinstance(value, Mapping):
        return value.items()
    return [] if value is None else [("", value)]
