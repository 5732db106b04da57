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


def ok(name: str, text: str) -> Check:
    """Nothing to do."""
    return Check(name=name, level="ok", text=text)


def warning(name: str, text: str) -> Check:
    """It will start, but likely not do what is wanted."""
    return Check(name=name, level="warning", text=text)


def refusal(name: str, text: str) -> Check:
    """It cannot work."""
    return Check(name=name, level="refusal", text=text)


def forced(checks: Iterable[Check]) -> list[Check]:
    """The same with every refusal turned into a warning."""
    return [
        replace(check, level="warning", text=f"forced: {check.text}")
        if check.level == "refusal"
        else check
        for check in checks
    ]


def refused(checks: Iterable[Check]) -> list[Check]:
    """Those that keep a run from starting."""
    return [check for check in checks if check.level == "refusal"]


def count(number: int, noun: str) -> str:
    """`1 reader`, `2 readers`."""
    return f"{number} {noun}{'s' * (number != 1)}"
