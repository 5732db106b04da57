"""What a protocol found, for one trunk and for several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rich.table import Table


@runtime_checkable
class Result(Protocol):
    """What one protocol found about one trunk: a frozen dataclass."""

    def rows(self) -> list[tuple[str, int | float]]:
        """Name and value of every number, in the order of a table; a count is an int."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One column of a table."""

    trunk: str
    """Name of the trunk, in short words."""
    result: Result
    seconds: float
    """Wall time of the protocol, features included."""
    facts: dict[str, Any] = field(default_factory=dict)
    """About the trunk, for the JSON: see `Trunk.facts`."""


def table(title: str, judged: Sequence[Judged]) -> Table:
    """One row for each number, one column for each trunk."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("", no_wrap=True)
    for column in judged:
        drawn.add_column(column.trunk, justify="right")
    values = [dict(column.result.rows()) for column in judged]
    names = dict.fromkeys(name for column in values for name in column)
    for name in names:
        drawn.add_row(name, *(_number(column.get(name)) for column in values))
    return drawn


def to_json(
    protocol: str, settings: dict[str, Any], judged: Sequence[Judged], *, complete: bool
) -> dict[str, Any]:
    """Everything in plain values.

    Args:
        protocol: Its name.
        settings: What decided the numbers: places, sizes, limits, seeds.
        judged: The columns.
        complete: Whether every trunk was judged.
    """
    return {
        "protocol": protocol,
        "complete": complete,
        "settings": settings,
        "results": [
            {"trunk": column.trunk, "seconds": round(column.seconds, 2), **column.facts,
             "values": dict(column.result.rows())}
            for column in judged
        ],
    }  # fmt: skip


def _number(value: int | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    # A small one, such as a learning rate, would be cut to zeros.
    return f"{value:g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"
