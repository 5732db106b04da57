"""What was found, told: on the terminal, in the run's log, in `events.jsonl`, as a table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from online_swav.events import Events
from online_swav.preflight.check import Check

logger = logging.getLogger(__name__)

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "refusal": ("REFUSED", "red")}


def tell(run: Path, checks: Iterable[Check]) -> None:
    """At a start: everything into the log, what is not ok to stderr and the events too."""
    events = Events(run)
    for check in checks:
        line = "preflight check=%s level=%s text=%r"
        if check.level == "ok":
            logger.info(line, check.name, check.level, check.text)
            continue
        logger.warning(line, check.name, check.level, check.text)
        events.add("preflight", level=check.level, check=check.name, text=check.text)
        sys.stderr.write(f"{_MARKS[check.level][0]}: {check.name}: {check.text}\n")


def table(checks: Iterable[Check]) -> Table:
    """One row for each check, readable without colour."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for check in checks:
        mark, style = _MARKS[check.level]
        # Texts, not markup: a folder may be called "run[/x]".
        rows.add_row(Text(mark, style=style), Text(check.name.replace("_", " ")), Text(check.text))
    return rows
