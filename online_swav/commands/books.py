"""`ledger`: the fate of every image."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from online_swav.commands.options import run_folder


def ledger(arguments: list[str]) -> int:
    """Totals of the books, their verification, their rebuilding."""
    parser = argparse.ArgumentParser(
        prog="online-swav ledger", description="The books of a run: every sample's fate."
    )
    parser.add_argument("action", nargs="?", choices=("totals", "verify", "rebuild"),
                        default="totals",
                        help="totals per state; verify the invariants (exit 1 names what is "
                        "broken); rebuild a lost book from the checkpoints")  # fmt: skip
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    from online_swav.books import print_totals, rebuild, totals, verify

    run = run_folder(options.run)
    if options.action == "rebuild":
        print(rebuild(run))
        return 0
    counts = totals(run)
    if options.json:
        print(json.dumps({name: dataclasses.asdict(c) for name, c in counts.items()}, indent=1))
    else:
        print_totals(counts)
    if options.action == "verify":
        broken = verify(run)
        for line in broken:
            print(f"BROKEN  {line}")
        if broken:
            return 1
        print("verified: every invariant of the book holds")
    return 0
