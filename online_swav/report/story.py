"""The events of a run as sentences, folded where nothing new happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from online_swav.report.events import MOST_CHARACTERS, Event
from online_swav.report.lapses import LAPSED
from online_swav.summary import Tone
from online_swav.wording import (
    ADJUSTMENTS,
    adjustments,
    amount,
    duration,
    number,
    plain_name,
    size,
    verdict_words,
)

ROUTINE = {"checkpoint": "checkpoint", "published": "encoder", "probe": "probe"}
"""Events of a run that goes as it should, and their nouns: neighbours are told together."""
ACTIONS = {
    "skip": "Skipped an update that was not finite",
    "rollback": "Rolled back, with a lower rate",
    "refreeze": "Froze the prototypes again: the loss was stuck at log K",
    "epsilon": "Made the codes sharper: the loss was stuck at log K",
    "rate": "Lowered the rate: the loss was stuck at log K",
    "give_up": "Gave up",
}
"""What the run does by itself, by `events.ACTION_KINDS`."""
_TONES: dict[str, Tone] = {"ok": "ok", "degraded": "warn", "collapsed": "bad"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the story."""

    at: float
    """Unix seconds."""
    until: float
    """Of the last event that is folded into it."""
    step: int | None
    tone: Tone
    title: str
    detail: str
    action: bool
    """Whether the run helped itself."""
    times: int
    """Events of this title in a row."""
    routine: bool
    """Whether it only says that all went as it should."""


def entries(events: Iterable[Event]) -> list[Entry]:
    """The story, oldest first."""
    told: list[Entry] = []
    for routine, group in groupby(events, key=lambda event: event.name in ROUTINE):
        if routine:
            told.append(_fold_routine(list(group)))
            continue
        for event in group:
            tone, title, detail = _TELLERS.get(event.name, _unknown)(event)
            detail = detail.rstrip(". ")
            action = event.name == "action"
            if told and told[-1].title == title and told[-1].action == action:
                told[-1] = replace(told[-1], until=event.at, times=told[-1].times + 1,
                                   detail=detail)  # fmt: skip
                continue
            told.append(Entry(at=event.at, until=event.at, step=event.step, tone=tone, title=title,
                              detail=detail, action=action, times=1, routine=False))  # fmt: skip
    return told


def _fold_routine(events: list[Event]) -> Entry:
    counts = Counter(event.name for event in events)
    parts = [amount(counts[name], noun) + " published" * (name == "published")
             for name, noun in ROUTINE.items() if counts[name]]  # fmt: skip
    details = []
    steps = [event.step for event in events if event.step is not None]
    if steps and min(steps) < max(steps):
        details.append(f"steps {min(steps):,} to {max(steps):,}")
    accuracies = [a for event in events if (a := event.number("knn_accuracy")) is not None]
    if accuracies:
        ends = accuracies[:1] + accuracies[1:][-1:]
        details.append("k-NN " + " to ".join(f"{accuracy:.1%}" for accuracy in ends))
    verdicts = {event.text("verdict") for event in events} - {"", "ok"}
    if verdicts:
        details.append(f"verdict {' and '.join(sorted(verdicts))}")
    written = [b for event in events if (b := event.number("size_bytes")) is not None]
    if written:
        details.append(size(written[-1]) + " each" * (len(written) > 1))
    one_step = steps[-1] if steps and min(steps) == max(steps) else None
    return Entry(at=events[0].at, until=events[-1].at, step=one_step, tone="quiet",
                 title=", ".join(parts), detail="; ".join(details), action=False, times=1,
                 routine=True)  # fmt: skip


Told = tuple[Tone, str, str]
"""Tone, title, detail."""


def _unknown(event: Event) -> Told:
    return "quiet", plain_name(event.name), ""


def _started(event: Event) -> Told:
    ranks = amount(int(event.number("ranks") or 1), "learner rank")
    return "quiet", "Started", f"generation {event.text('generation')}, {ranks}"


def _resumed(event: Event) -> Told:
    samples = event.number("samples")
    seen = f"after {amount(int(samples), 'image')}" if samples is not None else ""
    return "quiet", "Resumed from a checkpoint", seen


def _changed(event: Event) -> Told:
    given = event.fields.get("options")
    options = [str(option) for option in given] if isinstance(given, list) else []
    return "quiet", "Options changed by the user", "; ".join(options)[:MOST_CHARACTERS]


def _verdict(event: Event) -> Told:
    before, after = (verdict_words(event.text(name)) for name in ("before", "after"))
    return _TONES.get(after, "quiet"), f"Verdict: {after}", f"before: {before}"


def _raised(event: Event) -> Told:
    value = event.number("value")
    measured = event.text("shown") or (event.text("value") if value is None else number(value))
    detail = f"{measured}, healthy: {event.text('healthy')}. {event.text('remedy')}"
    if event.fields.get("advice") is True:
        return "quiet", f"Advice: {_about(event)}", detail
    return "warn", f"Finding: {_about(event)}", detail


def _lapsed(event: Event) -> Told:
    detail = f"it was still there when the {event.text('of')} ended; the next one is judged afresh"
    return "quiet", f"Left open: {_about(event)}", detail


def _cleared(event: Event) -> Told:
    lasted = event.number("lasted_s")
    after = f"after {duration(lasted)}" if lasted is not None else ""
    return "ok", f"Over: {_about(event)}", after


def _about(event: Event) -> str:
    subject = event.text("subject")
    return plain_name(event.text("name")) + (f" of {subject}" if subject else "")


def _action(event: Event) -> Told:
    kind = event.text("kind")
    known = {"at", "event", "step", "kind", "reason", *ADJUSTMENTS}
    did = [f"{plain_name(name)} {_plain(value)}" for name, value in event.fields.items()
           if name not in known]  # fmt: skip
    parts = [event.text("reason").rstrip(". "), *did, *adjustments(event.fields)]
    detail = "; ".join(part for part in parts if part)[:MOST_CHARACTERS]
    title = ACTIONS.get(kind) or plain_name(kind) or "Acted"
    return "bad" if kind == "give_up" else "warn", title, detail


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _quarantined(event: Event) -> Told:
    parts = [amount(int(count), noun) for name, noun in (("images", "image"), ("shards", "shard"))
             if (count := event.number(name))]  # fmt: skip
    return "warn", "Quarantined", f"{' and '.join(parts)} of {event.text('source')}"


def _preflight(event: Event) -> Told:
    tone: Tone = "bad" if event.text("level") == "refusal" else "warn"
    return tone, f"Check before the start: {plain_name(event.text('check'))}", event.text("text")


_TELLERS: dict[str, Callable[[Event], Told]] = {
    "started": _started,
    "resumed": _resumed,
    "changed": _changed,
    "stopped": lambda event: ("quiet", "Stopped", event.text("reason")),
    "failed": lambda event: ("bad", "Failed", event.text("reason")),
    "verdict": _verdict,
    "finding_raised": _raised,
    "finding_cleared": _cleared,
    LAPSED: _lapsed,
    "checkpoint_failed": lambda event: ("bad", "A checkpoint failed", event.text("reason")),
    "action": _action,
    "restarted": lambda event: (
        "warn", f"Restarted: {event.text('component')}", event.text("reason"),
    ),
    "quarantined": _quarantined,
    "source_paused": lambda event: (
        "bad", f"Source {event.text('source')} is paused", event.text("reason"),
    ),
    "source_resumed": lambda event: ("ok", f"Source {event.text('source')} goes on", ""),
    "preflight": _preflight,
}  # fmt: skip
