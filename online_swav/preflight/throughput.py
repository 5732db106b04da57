"""From the speed of a reader and of a learner to the images per second of the run. Pure."""

from __future__ import annotations

import math

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, ok, warning

MOST_WAITING = 0.1
"""Share of its time that a learner may wait before it is worth a word."""
_WORTH_A_WORD = 0.95


def short(value: float) -> str:
    """A speed or a time as people read it: two digits, or all before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def reader_check(config: RunConfig, reader_rate: float) -> Check:
    """What the readers deliver.

    Args:
        config: The run.
        reader_rate: Images per second of one reader.
    """
    actors = config.ingest.actors
    return ok(
        "reader_speed",
        f"a reader on a core of this machine reads, decodes and crops {short(reader_rate)} "
        f"images/s; --ingest {actors}: {short(reader_rate * actors)}",
    )


def throughput_check(
    config: RunConfig, *, reader_rate: float, learner_rate: float,
    threads: int | None, cores: int | None,
) -> Check:  # fmt: skip
    """What to expect of all together.

    Args:
        config: The run.
        reader_rate: Images per second of one reader, alone.
        learner_rate: Images per second of one learner, alone.
        threads: CPU threads the learner took; None on a GPU.
        cores: Cores that readers and learners share; None for a cluster, where they do not.
    """
    actors, learners = config.ingest.actors, config.learners
    read, learned = reader_rate * actors, learner_rate * learners
    expected = min(read, learned)
    together = expected
    if cores is not None and threads is not None:
        core_seconds_per_image = 1 / reader_rate + threads / learner_rate
        together = min(expected, cores / core_seconds_per_image)
    shared, expected = together < _WORTH_A_WORD * expected, together
    waiting = 1 - min(read / learned, 1.0)
    text = (
        f"learner {short(learned)} images/s, readers {short(read)}: expect "
        f"{short(expected)} images/s, {short(config.global_batch_size / expected)} s per step"
    )
    if shared:
        text += f", as both share {cores} cores"
    if waiting <= MOST_WAITING:
        return ok("throughput", f"{text}; the learner hardly waits")
    enough = math.ceil(learned / reader_rate)
    advice = f"--ingest {enough} would feed it"
    if cores is not None and enough > cores:
        advice += f", on a machine of more than {cores} cores"
    most = config.ingest.max_actors
    if most is not None and most >= enough:
        return ok("throughput", f"{text}; the learner would wait {waiting:.0%} of its time, until "
                  f"readers are added (up to {most})")  # fmt: skip
    return warning("throughput", f"{text}; the learner will wait {waiting:.0%} of its time. "
                   f"{advice}; smaller or fewer `crops` are read faster.")  # fmt: skip
