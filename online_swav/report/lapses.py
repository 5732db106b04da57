"""Findings that were open when whoever saw them ended: nobody writes that they are over."""

from __future__ import annotations

from collections.abc import Sequence

from online_swav.learning.findings import LEARNING_FINDINGS
from online_swav.report.events import Event

LAPSED = "finding_lapsed"
"""An event of the report's own: what comes next looks afresh, and raises again what it finds."""
_BEGINS = ("started", "resumed")
_ENDS = ("stopped", "failed")


def with_lapses(events: Sequence[Event]) -> list[Event]:
    """The events, and an end of each finding that was open when its learner, or the run, ended.

    A learner's findings end with the learner. Those around it end with the run's processes, which
    outlive a learner that crashes or goes back.

    Args:
        events: Oldest first.
    """
    found: list[Event] = []
    seen: dict[tuple[str, str], Event] = {}
    ended_at: float | None = None
    same_run = False
    for event in events:
        key = event.text("name"), event.text("subject")
        if event.name == "finding_raised":
            seen[key] = event
        elif event.name == "finding_cleared":
            seen.pop(key, None)
        elif event.name in _ENDS:
            ended_at = event.at
        elif _hands_over(event):
            same_run = True
        found.append(event)
        if event.name not in _BEGINS:
            continue
        at = event.at if ended_at is None else ended_at
        for name, subject in list(seen):
            learners = name in LEARNING_FINDINGS
            if learners or not same_run:
                raised = seen.pop((name, subject))
                fields = {"name": name, "subject": subject, "of": "learner" if learners else "run"}
                found.append(Event(max(at, raised.at), LAPSED, fields))
        ended_at, same_run = None, False
    return sorted(found, key=lambda event: event.at)


def _hands_over(event: Event) -> bool:
    """Whether the next learner begins beside the same processes."""
    crashed = event.name == "restarted" and event.text("component") == "learner"
    return crashed or (event.name == "action" and event.text("kind") == "rollback")
