"""Handing a person's decision to the book: at once, or to the run that owns it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from online_swav.errors import ConfigError
from online_swav.run_lock import locked_run
from streams.decisions import Decisions
from streams.ledger import Ledger

PATIENCE_S = 20.0


def decisions_of(run: Path) -> Decisions:
    """The decisions of a run."""
    return Decisions(run / "decisions")


def carry_out(run: Path, decision_ids: Sequence[str]) -> None:
    """Apply the decisions, or wait for the run that goes on to do it; print what came of each."""
    decisions = decisions_of(run)
    try:
        with locked_run(run):
            ledger = Ledger(run / "ledger.sqlite")
            try:
                decisions.apply(ledger)
            finally:
                ledger.close()
    except ConfigError:
        print("the run goes on: it applies this at its next listing of the sources")
    deadline = time.monotonic() + PATIENCE_S
    for decision_id in decision_ids:
        outcome = decisions.outcome(decision_id)
        while outcome is None and time.monotonic() < deadline:
            time.sleep(0.2)
            outcome = decisions.outcome(decision_id)
        print(outcome or "not applied yet; see decisions/applied.jsonl in the run folder later")
