"""What a check says. Plain values, for the terminal, the log and `events.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["ok", "warning", "refusal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at before a start."""

    name: str
    """What it is about, in words joined by `_`."""
    level: Level
    """A `warning` lets the run start, a `refusal` does not (unless `--force`)."""
    text: str
    """What was measured, what would be right, and which option changes it."""
    final: bool = False
    """Whether `--force` is in vain: a run that starts in spite of the refusal fails at once."""


def ok(name: str, text: str) -> Check:
    """Nothing to do."""
    return Check(name=name, level="ok", text=text)


def warning(name: str, text: str) -> Check:
    """It will start, but likely not do what is wanted."""
    return Check(name=name, level="warning", text=text)


def refusal(name: str, text: str, *, final: bool = False) -> Check:
    """It cannot work. See `Check.final`."""
    return Check(name=name, level="refusal", text=text, final=final)


def forced(checks: Iterable[Check]) -> list[Check]:
    """The same with every refusal that is not final turned into a warning."""
    return [
        replace(check, level="warning", text=f"forced: {check.text}")
        if check.level == "refusal" and not check.final
        else check
        for check in checks
    ]


def refused(checks: Iterable[Check]) -> list[Check]:
    """Those that keep a run from starting."""
    return [check for check in checks if check.level == "refusal"]


def force_hint(refusals: Iterable[Check]) -> str:
    """What `--force` would do about these; to be put behind "would not start", say."""
    final = [check.name.replace("_", " ") for check in refusals if check.final]
    return f"--force does not help with {', '.join(final)}" if final else "--force makes it start"


def count(number: int, noun: str) -> str:
    """`1 reader`, `2 readers`."""
    return f"{number} {noun}{'s' * (number != 1)}"
