"""`doctor`: everything that can be known before a run starts, with numbers."""

from __future__ import annotations

import dataclasses
import json
import os

from online_swav.commands.options import merged_config
from online_swav.commands.prepare import prepare

EXIT_REFUSED = 4


def doctor(arguments: list[str]) -> int:
    """Check a run that could start now; the options are those of `train`."""
    config, known = merged_config(arguments, "doctor")
    prepared = prepare(config, change=known.change)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run, before torch is imported
    from rich.console import Console

    from online_swav.preflight.check import force_hint, forced, refused
    from online_swav.preflight.checks import thorough_checks
    from online_swav.preflight.telling import table

    console = Console(highlight=False)
    if known.json:
        checks = thorough_checks(prepared.config, prepared.shards)
    else:
        with Console(stderr=True).status("Looking: a few seconds ..."):
            checks = thorough_checks(prepared.config, prepared.shards)
    if known.force:
        checks = forced(checks)
    refusals = refused(checks)
    code = EXIT_REFUSED if refusals else 0
    if known.json:
        print(json.dumps({"exit": code, "checks": [dataclasses.asdict(c) for c in checks]}))
        return code
    console.print(table(checks))
    warnings = sum(check.level == "warning" for check in checks)
    counted = f"{len(checks)} checks: {len(refusals)} refused, {warnings} to be warned of."
    verdict = f"would not start ({force_hint(refusals)})" if refusals else "would start"
    console.print(f"\n{counted} `online-swav train` with these options {verdict}.")
    return code
