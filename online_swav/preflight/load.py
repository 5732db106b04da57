"""Do others use this machine? Then speeds that are measured now say little of a quiet one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from online_swav.preflight.check import Check, count, ok, warning

_STAT = Path("/proc/stat")
_LOOK_S = 0.3
_BUSY_SHARE = 0.2
"""Share of the cores that others may use before it is worth a word."""
_SPEEDS = ("reader_speed", "learner_speed", "throughput")


def load_check() -> Check:
    """Look for a moment, while this process does nothing."""
    before = _busy_s()
    time.sleep(_LOOK_S)
    after = _busy_s()
    used = (after - before) / _LOOK_S if before is not None and after is not None else 0.0
    return judge_load(used=used, load=os.getloadavg()[0], cores=os.cpu_count() or 1)


def judge_load(*, used: float, load: float, cores: int) -> Check:
    """Compare.

    Args:
        used: Cores in use by others at this moment.
        load: Processes that ran or waited for a core, on average over the last minute.
        cores: What the machine has.
    """
    numbers = (
        f"other processes use {used:.1f} of {count(cores, 'core')} at this moment, and the load "
        f"of the last minute is {load:.1f}"
    )
    if load <= cores and used <= _BUSY_SHARE * cores:
        return ok("load", numbers)
    return warning(
        "load",
        f"{numbers}: this machine is busy. Speeds below are measured under that load, and are no "
        "promise: alone the run is faster, and with more load slower. For true ones ask again "
        "when it is quiet.",
    )


def measured_under_load(checks: Iterable[Check]) -> list[Check]:
    """The same with a word behind every speed."""
    return [
        replace(check, text=f"{check.text} (measured under load)")
        if check.name in _SPEEDS and check.level != "refusal"
        else check
        for check in checks
    ]


def _busy_s() -> float | None:
    """Seconds that all cores together have worked since the machine was started."""
    try:
        fields = _STAT.read_text().splitlines()[0].split()
        user, nice, system, _idle, _iowait, interrupts, soft_interrupts, *_ = map(int, fields[1:])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")
