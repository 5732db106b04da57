"""Does this machine have the cores that a run without a cluster asks for?"""

from __future__ import annotations

import math
import os
from pathlib import Path

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, count, ok, warning
from online_swav.preflight.ray_address import ray_address

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def machine_checks(config: RunConfig) -> list[Check]:
    """Readers and learners against the cores; nothing when a cluster is joined."""
    if ray_address(os.environ) is not None:
        return []
    return cores_checks(config, cores=usable_cores(), all_cores=os.cpu_count() or 1)


def usable_cores() -> int:
    """Cores this process may use: by affinity, and by the quota of a container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))


def cores_checks(config: RunConfig, *, cores: int, all_cores: int) -> list[Check]:
    """Compare.

    Args:
        config: The run.
        cores: What may be used here.
        all_cores: What the machine has, by which threads are shared out.
    """
    actors, learners = config.ingest.actors, config.learners
    threads = config.threads or 1
    wanted = actors + learners * threads
    numbers = (
        f"{count(actors, 'reader')} and {count(learners, 'learner')} of "
        f"{count(threads, 'thread')} or more want {wanted} cores, and here are {cores}"
    )
    checks = [ok("cores", numbers)]
    if wanted > cores:
        checks = [warning("cores", f"{numbers}: they take turns, and more readers make nothing "
                          "faster. Lower --ingest or --learners.")]  # fmt: skip
    automatic = max(1, all_cores // learners)
    if config.threads is None and automatic > cores:
        checks.append(
            warning(
                "threads",
                f"a learner takes {automatic} threads, as the machine has {all_cores} cores, but "
                f"only {cores} may be used here: they wait for each other. Set --threads "
                f"{max(1, cores // learners)}.",
            )
        )
    return checks
