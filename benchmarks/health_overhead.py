"""What all measuring of health costs a learner: the same steps with it and without, by turns.

    python benchmarks/health_overhead.py [--preset demo] [--turns 5]

A turn is 50 steps of the preset on random crops, with an inspection in it, as every 50 steps, full
windows with their spectra, and a report a second: values, rules, verdict. Without: none of these.
Measured in processor time of one thread, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from measuring import by_turns, machine, spread, write_json
from rich.console import Console
from rich.table import Table

from online_swav.config import RunConfig
from online_swav.learning.learner import Learner
from online_swav.presets import PRESETS, preset

STEPS = 50


class Unwatched(Learner):
    """A learner that measures nothing of its health."""

    def watch(self, _seconds: float) -> None:
        """No report."""


class Watched(Learner):
    """A learner as in a run: it reports once a second."""

    def watch(self, seconds: float) -> None:
        """Report if a second has passed."""
        self._due = getattr(self, "_due", 0.0) + seconds
        if self._due >= 1.0:
            self._due = 0.0
            self.health(self.health_values())


def build(config: RunConfig) -> tuple[Watched, Unwatched]:
    """The two contenders."""
    watched, unwatched = Watched(config.learner), Unwatched(config.learner)
    unwatched._vitals.measure = lambda *_args, **_options: None  # type: ignore[method-assign]
    unwatched._vitals.inspection.due = lambda _step: False  # type: ignore[method-assign]
    return watched, unwatched


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="demo")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks/results/health-overhead.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = preset(options.preset)
    generator = torch.Generator().manual_seed(0)
    crops = [
        torch.randint(0, 256, (f.num, config.ingest.batch_size, 3, f.size, f.size),
                      dtype=torch.uint8, generator=generator)
        for f in config.crops
    ]  # fmt: skip

    def turn(learner: Watched | Unwatched) -> float:
        begun = time.process_time()
        for _ in range(options.steps):
            before = time.process_time()
            learner.step(crops, images=config.ingest.batch_size)
            learner.watch(time.process_time() - before)
        return (time.process_time() - begun) / options.steps

    watched, unwatched = build(config)
    values = by_turns({"with": lambda: turn(watched), "without": lambda: turn(unwatched)},
                      options.turns)  # fmt: skip
    table = Table(title=f"{options.preset}, {options.steps} steps a turn", title_justify="left")
    for name in ("health", "CPU s per step", "with / without"):
        table.add_column(name)
    ratios = [a / b for a, b in zip(values["with"], values["without"], strict=True)]
    overhead = spread(ratios, 4)
    table.add_row("with", _text(spread(values["with"], 4)), _text(overhead))
    table.add_row("without", _text(spread(values["without"], 4)), "")
    Console().print(table)
    write_json(options.json, {"machine": machine("torch"), "preset": options.preset,
                             "steps": options.steps, "cpu_s_per_step": values,
                             "with_over_without": overhead})  # fmt: skip


def _text(values: dict[str, float]) -> str:
    return f"{values['median']} ({values['min']} to {values['max']})"


if __name__ == "__main__":
    main()
