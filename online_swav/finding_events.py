"""What began and what ended between two looks at the findings, as events. No torch."""

from __future__ import annotations

import logging
import time

from online_swav.events import Events
from online_swav.learning.findings import Finding, Verdict
from online_swav.wording import measured

logger = logging.getLogger(__name__)


class FindingEvents:
    """Writes an event for each finding that begins or ends, and for each change of the verdict.

    Args:
        events: Where to.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._known: dict[tuple[str, str], Finding] = {}
        self._verdict: Verdict = "unknown"

    def note(self, found: tuple[Finding, ...], *, step: int) -> None:
        """Compare with what was there at the last call."""
        now = {(finding.name, finding.subject): finding for finding in found}
        for key, finding in now.items():
            if key not in self._known:
                logger.warning("finding_raised finding=%s value=%r healthy=%r remedy=%r",
                               finding.name, measured(finding), finding.healthy,
                               finding.remedy)  # fmt: skip
                self._events.add("finding_raised", step=step, name=finding.name,
                                 value=finding.value, shown=finding.shown,
                                 healthy=finding.healthy, remedy=finding.remedy,
                                 subject=finding.subject, advice=finding.advice)  # fmt: skip
        for key, finding in self._known.items():
            if key not in now:
                lasted = time.time() - finding.since
                logger.info("finding_cleared finding=%s lasted_s=%.0f", finding.name, lasted)
                self._events.add("finding_cleared", step=step, name=finding.name,
                                 value=finding.value, lasted_s=round(lasted, 1),
                                 subject=finding.subject)  # fmt: skip
        self._known = now

    def note_verdict(self, verdict: Verdict, *, step: int) -> None:
        """Compare with the last one."""
        if verdict != self._verdict:
            logger.info("verdict_changed step=%d before=%s after=%s", step, self._verdict, verdict)
            self._events.add("verdict", step=step, before=self._verdict, after=verdict)
            self._verdict = verdict
