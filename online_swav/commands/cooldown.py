"""`cooldown`: a copy of a run whose rate falls to zero."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.commands.options import run_folder
from online_swav.commands.signals import stop_on_signals
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.cooldown import Cooldown, Cooled
    from online_swav.status import LearnerStatus

TOLD_S = 10.0
"""Seconds between two lines of progress."""


def cooldown(arguments: list[str]) -> int:
    """Cool a copy of a run down."""
    parser = argparse.ArgumentParser(
        prog="online-swav cooldown",
        description="Copies the newest checkpoint of a run, and trains the copy on the same stream "
        "for some steps, over which its rate falls to zero: what the encoder of a run that holds "
        "its rate can do. The run is only read, and may go on meanwhile; the copy has a book of "
        "its own. Trains in this process, on one device, as many images in a step as the run; with "
        "half of this machine's cores while the run trains here too.",
        epilog="The copy is a run folder like every other: evaluate, export, embed and report take "
        "it. Stopped before its end, the same command with its --out goes on.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run folder")
    parser.add_argument("--steps", type=int, required=True, metavar="N",
                        help="steps over which the rate falls; a tenth of the run's steps is "
                        "usual")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the copy (default: "
                        "DIR/cooldowns/step-...-plus-N)")  # fmt: skip
    parser.add_argument("--shape", choices=("linear", "sqrt"), default="linear",
                        help="how the rate falls: a straight line, or 1 - sqrt "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--when-idle", choices=("replay", "wait", "stop"), default="replay",
                        help="once every shard is trained: replay them, wait for more, or end "
                        "before the rate has fallen (default: %(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {options.steps}")
    run = run_folder(options.run)
    from online_swav import cooldown as cooling

    out = options.out or cooling.default_out(run, cooling.newest_of(run), options.steps)
    if out.resolve() == run.resolve():
        raise ConfigError(f"--out {out} is the run itself; name a folder of its own")
    what = cooling.Cooldown.read(out)
    if what is None:
        if out.exists():
            raise ConfigError(f"--out {out} is there already, and no cooldown; name another folder")
        _say(f"copying the newest checkpoint of {run}")
        what = cooling.prepare_copy(
            run, out, steps=options.steps, shape=options.shape, when_idle=options.when_idle
        )
    _require_same(what, options, run, out)
    _say(f"{out}: steps {what.from_step} to {what.last_step}, "
         f"{'1 - sqrt' if what.shape == 'sqrt' else what.shape}")  # fmt: skip
    _tell(_train(out, what), out)
    return 0


def _require_same(what: Cooldown, options: argparse.Namespace, run: Path, out: Path) -> None:
    asked = {"run": str(run.resolve()), "steps": options.steps, "shape": options.shape,
             "when_idle": options.when_idle}  # fmt: skip
    for name, value in asked.items():
        if getattr(what, name) != value:
            raise ConfigError(
                f"{out} was begun with --{name.replace('_', '-')} {getattr(what, name)}, and now "
                f"it is {value}; give the same to go on, or another --out"
            )


def _train(out: Path, what: Cooldown) -> Cooled:
    from online_swav.cooldown import cool_down
    from online_swav.inprocess import RecordingDesk

    stop = threading.Event()
    stop_on_signals(stop)
    said = float("-inf")
    desk = RecordingDesk()

    def on_report(status: LearnerStatus) -> None:
        nonlocal said
        desk.stop = stop.is_set()
        desk.reports.clear()  # a long cooldown reports every second
        now = time.monotonic()
        if status.state in ("training", "idle") and now - said >= TOLD_S:
            said = now
            loss = "" if status.loss_ratio is None else f", loss / log K {status.loss_ratio:.3f}"
            _say(f"step {status.step} of {what.last_step}, rate {status.lr:.3g}{loss}, "
                 f"{status.images_per_s:.0f} images/s")  # fmt: skip

    desk.on_report = on_report
    return cool_down(out, desk, say=_say)


def _tell(cooled: Cooled, out: Path) -> None:
    what = cooled.cooldown
    if cooled.step < what.last_step:
        print(f"stopped at step {cooled.step} of {what.last_step}: {cooled.reason}. The same "
              f"command with --out {out} goes on.")  # fmt: skip
    else:
        print(f"cooled down: {what.steps} steps from step {what.from_step} to {cooled.step}; "
              f"verdict {cooled.verdict}")  # fmt: skip
    if what.knn_before is not None and cooled.knn_after is not None:
        change = cooled.knn_after - what.knn_before
        print(f"k-NN accuracy: {what.knn_before:.4f} before, {cooled.knn_after:.4f} after "
              f"({change:+.4f})")  # fmt: skip
    elif what.knn_before is None:
        judge = f"`online-swav evaluate knn --run {out} --train SHARDS --test SHARDS`"
        print(f"k-NN accuracy: not measured, as the run has no probe; {judge} does")
    print(f"encoder: {cooled.checkpoint}")
    if cooled.encoder != cooled.checkpoint and not cooled.encoder.name.startswith(
        cooled.checkpoint.name
    ):
        print(f"  name it in full: {out} alone is taken for {cooled.encoder}, the newest one that "
              "was healthy")  # fmt: skip


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
