"""The events of a run as values whose fields are not trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from online_swav.report.facts import Facts

MOST_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class Event:
    """One line of `events.jsonl`."""

    at: float
    """Unix seconds."""
    name: str
    """One of `online_swav.events.EventName`; another one from a newer version."""
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A field as text; empty if there is none of that name."""
        value = self.fields.get(name)
        return "" if value is None else str(value)[:MOST_CHARACTERS]

    def number(self, name: str) -> float | None:
        """A field as a finite number; None if it is none."""
        value = self.fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if math.isfinite(value) else None

    @property
    def step(self) -> int | None:
        """The step it is about, if it says."""
        step = self.number("step")
        return int(step) if step is not None else None


def events_of(facts: Facts) -> list[Event]:
    """Oldest first: those the run has left, else those that its checkpoints prove."""
    if facts.events:
        found = [Event(float(e["at"]), str(e["event"])[:100], e) for e in facts.events]
        return sorted(found, key=lambda event: event.at)
    found = [
        Event(c.manifest.created_at, "checkpoint",
              {"step": c.manifest.step, "verdict": c.manifest.verdict, "size_bytes": c.size_bytes})
        for c in facts.checkpoints
    ]  # fmt: skip
    found += [
        Event(p.measured_at, "probe", {"step": p.step, "knn_accuracy": p.knn_accuracy})
        for p in facts.probes
    ]
    return sorted(found, key=lambda event: event.at)
