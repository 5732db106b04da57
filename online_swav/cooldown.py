"""A copy of a run that is cooled down: its rate falls to zero over the last steps.

A run on a stream that never ends holds its rate, and an encoder is at its best once the rate has
fallen. So a copy of the newest checkpoint goes on alone for some steps. The run is only read:

    OUT/                   a run folder like every other, for `report`, `evaluate`, `embed`, ...
      cooldown.json        of which run and step, how long, k-NN before
      config.yaml          the run's options with another schedule and end
      checkpoints/         the copy; later the cooled down one
      ledger_deltas/       of the run's book, from which the copy has a book of its own
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch

from online_swav.assemble import build_probe, choose_device, learner_threads
from online_swav.books import rebuild
from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import RunConfig, load_yaml, to_yaml
from online_swav.encoder import Encoder
from online_swav.errors import CheckpointError, ConfigError
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.config import ScheduleConfig
from online_swav.learning.schedule import learning_rate
from online_swav.lineage import Lineage
from online_swav.run_lock import holder, locked_run

Shape = Literal["linear", "sqrt"]
WhenIdle = Literal["wait", "replay", "stop"]
TRIES = 3
_NOTE = "cooldown.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooldown:
    """What is cooled down, and how."""

    run: str
    """The run it is a copy of."""
    from_step: int
    """Step of the checkpoint that was copied."""
    steps: int
    """Over which the rate falls."""
    shape: Shape
    """Of the fall: a straight line, or 1 - sqrt."""
    when_idle: WhenIdle = "replay"
    """Once every shard is trained."""
    knn_before: float | None = None
    """k-NN accuracy of the copied checkpoint; None in a run without a probe."""

    @property
    def last_step(self) -> int:
        """The step at which it ends."""
        return self.from_step + self.steps

    @classmethod
    def read(cls, out: Path) -> Self | None:
        """That of a folder; None if it holds none."""
        try:
            return cls(**json.loads((out / _NOTE).read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{out / _NOTE} cannot be read: {error}; give another --out"
            ) from error

    def write(self, out: Path) -> None:
        """Leave it in a folder."""
        staging = out / f".{_NOTE}"
        staging.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        staging.replace(out / _NOTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooled:
    """How it ended."""

    cooldown: Cooldown
    step: int
    """Where it stands: `cooldown.last_step` unless it was stopped."""
    reason: str
    """Why it ended, in words."""
    verdict: str
    """Of the newest checkpoint's health."""
    knn_after: float | None
    """k-NN accuracy of the newest checkpoint."""
    checkpoint: Path
    """The newest one: `Encoder.load` takes it."""
    encoder: Path
    """What `Encoder.load` takes of the folder as a whole."""


def default_out(run: Path, newest: Checkpoint, steps: int) -> Path:
    """Where a cooldown goes."""
    return run / "cooldowns" / f"{newest.path.name}-plus-{steps}"


def newest_of(run: Path) -> Checkpoint:
    """The checkpoint that would be copied.

    Raises:
        ConfigError: If the run has none.
    """
    newest = Checkpoints(run, keep=1).latest()
    if newest is None:
        raise ConfigError(f"{run} has no checkpoint yet; there is nothing to cool down")
    return newest


def prepare_copy(
    run: Path, out: Path, *, steps: int, shape: Shape, when_idle: WhenIdle
) -> Cooldown:
    """Copy the newest checkpoint and its book into a new folder, which appears when it is whole.

    The run is read and never written to, also while it trains.

    Raises:
        ConfigError: If the run's rate cannot fall any more, or the disk refuses.
        CheckpointError: If no checkpoint is whole, or a part of its book is missing.
    """
    staging = out.with_name(f".{out.name}")
    try:
        for left in reversed(range(TRIES)):
            shutil.rmtree(staging, ignore_errors=True)
            newest = newest_of(run)
            try:
                staging.mkdir(parents=True)
                _copy(run, newest, staging)
                break
            except (OSError, CheckpointError):
                if newest.path.exists() or not left:
                    raise
                # It was pruned by the run while it was copied; there is a newer one.
        stored = load_yaml(newest.path / "config.yaml", RunConfig())
        config = cooled_config(stored, out, newest.manifest.step, steps=steps, shape=shape,
                               when_idle=when_idle)  # fmt: skip
        (staging / "config.yaml").write_text(to_yaml(config))
        rebuild(staging)
        cooldown = Cooldown(
            run=str(run.resolve()),
            from_step=newest.manifest.step,
            steps=steps,
            shape=shape,
            when_idle=when_idle,
        )
        cooldown.write(staging)
        staging.rename(out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return cooldown


def _copy(run: Path, newest: Checkpoint, to: Path) -> None:
    """The checkpoint, what the run has changed of its recipe, and the deltas that make the book."""
    copy = to / "checkpoints" / newest.path.name
    shutil.copytree(newest.path, copy)
    (copy.parent / "latest").write_text(f"{copy.name}\n")
    Checkpoints.load(copy)  # every hash
    if (run / "remedies.json").exists():
        shutil.copyfile(run / "remedies.json", to / "remedies.json")
    deltas = to / "ledger_deltas"
    deltas.mkdir()
    lineage = Lineage(run)
    base = lineage.newest_base()
    for delta in lineage.walk(newest):
        if delta.step != newest.manifest.step:
            (deltas / f"step-{delta.step:09d}.json").write_text(delta.to_json())
        if base is not None and (delta.step, delta.version) == (base.step, base.version):
            shutil.copyfile(base.path, deltas / base.path.name)
            break


def cooled_config(
    config: RunConfig, out: Path, step: int, *, steps: int, shape: Shape,
    when_idle: WhenIdle,
) -> RunConfig:  # fmt: skip
    """The run's options for its copy: one rank, as many images in a step, and a rate that falls.

    Raises:
        ConfigError: If the rate at `step` is 0, or still in its warm-up.
    """
    learner = config.learner
    if step < learner.schedule.warmup_steps:
        raise ConfigError(
            f"the newest checkpoint is of step {step}, in the warm-up of "
            f"{learner.schedule.warmup_steps} steps; a rate that has yet to rise cannot be cooled "
            "down"
        )
    rate = learning_rate(step, peak_lr=learner.optim.lr, config=learner.schedule)
    if rate <= 0:
        raise ConfigError(f"the rate of the run is 0 at step {step}: it has cooled down by itself")
    # Zero comes one step after the end: a schedule that has ended is a finding, in runs that go on.
    schedule = ScheduleConfig(
        kind=shape, warmup_steps=learner.schedule.warmup_steps,
        warmup_lr=learner.schedule.warmup_lr, total_steps=step + steps + 1, decay_steps=steps + 1,
    )  # fmt: skip
    return dataclasses.replace(
        config,
        run=str(out.resolve()),
        when_idle=when_idle,
        stop_after_steps=step + steps,
        stop_after_samples=None,
        learners=1,
        max_learners=None,
        sinks=(),
        observer=None,
        ingest=dataclasses.replace(config.ingest, batch_size=config.global_batch_size),
        learner=dataclasses.replace(
            learner, schedule=schedule, optim=dataclasses.replace(learner.optim, lr=rate)
        ),
    )


def cool_down(out: Path, desk: RecordingDesk, *, say: Callable[[str], None]) -> Cooled:
    """Train a prepared copy to its end, or until `desk` stops it; from where it stands.

    Raises:
        ConfigError: If another process trains it, or its data cannot be used.
        GivenUp: If the representation is unwell, and every remedy was in vain.
    """
    cooldown = Cooldown.read(out)
    assert cooldown is not None, "prepare_copy leaves one"
    config = dataclasses.replace(load_yaml(out / "config.yaml", RunConfig()), run=str(out))
    device = choose_device(config)
    # Beside its run half of the cores: tried on two, two trainings of two threads each came to 50
    # images/s together, where one alone makes 170; with one thread this one makes 85.
    beside = holder(Path(cooldown.run)) is not None
    torch.set_num_threads(learner_threads(config, ranks=2 if beside else 1))
    with locked_run(out):
        probe = build_probe(config, device=device)
        if probe is not None and cooldown.knn_before is None:
            say("k-NN before")
            copied = out / "checkpoints" / f"step-{cooldown.from_step:09d}"
            backbone = Encoder.load(copied, device=device).backbone
            if config.learner.channels_last:  # as the learner's, whose number comes after it
                backbone.to(memory_format=torch.channels_last)
            cooldown = dataclasses.replace(cooldown, knn_before=probe(backbone))
            cooldown.write(out)
        reason = train_in_process(config, desk, probe=probe)
        return _ended(out, cooldown, reason)


def _ended(out: Path, cooldown: Cooldown, reason: str) -> Cooled:
    newest = newest_of(out)
    manifest = newest.manifest
    measured = [p["knn_accuracy"] for p in manifest.probes if p["step"] == manifest.step]
    return Cooled(
        cooldown=cooldown, step=manifest.step, reason=reason, verdict=manifest.verdict,
        knn_after=measured[-1] if measured else None, checkpoint=newest.path,
        encoder=Encoder.load(out).place,
    )  # fmt: skip
