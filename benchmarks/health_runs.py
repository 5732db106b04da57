"""Makes the classic failures of SwAV on purpose, and asks which findings name them.

    python benchmarks/health_runs.py [--steps 160] [--only NAME ...] [--shards 'train-*.tar']

Every run is a real one (readers, ledger, learner, reports) on the embedded stream, of the `demo`
recipe with one thing broken, and the run does not help itself (`act.enabled` off). The confusion
table says at which step the right finding was raised, and what else was; the healthy runs must
raise none. `--shards` adds a healthy run on real images. One thread each: about a minute a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, write_json
from rich.console import Console
from rich.table import Table

from online_swav import inprocess
from online_swav.config import RunConfig, digest
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.config import CodesConfig, LearnerConfig, QueueConfig, RampConfig
from online_swav.learning.findings import VERDICTS
from online_swav.learning.learner import Learner, NonFiniteLossError
from online_swav.presets import preset
from online_swav.run_rules import RunJudge
from online_swav.status import LearnerStatus, RunStatus
from streams.pack import write_shard
from streams.synthetic import encode, render, write_synthetic_shard

IMAGES = 4000
NAN_AT = 100
Spoil = Callable[[Learner], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """One way to break a run, and the findings that name it."""

    what: str
    right: tuple[str, ...]
    """Findings of which the first one to come names the failure; none for a healthy run."""
    stream: str = "mixed"
    change: Callable[[LearnerConfig], LearnerConfig] = lambda config: config
    spoil: Spoil = lambda _learner: None


def _epsilon(value: float) -> Callable[[LearnerConfig], LearnerConfig]:
    ramp = RampConfig(start=value, end=value)
    return lambda c: dataclasses.replace(c, codes=dataclasses.replace(c.codes, epsilon=ramp))


def _rate(factor: float, *, freeze: int | None = None) -> Callable[[LearnerConfig], LearnerConfig]:
    def change(config: LearnerConfig) -> LearnerConfig:
        codes: CodesConfig = config.codes
        if freeze is not None:
            codes = dataclasses.replace(codes, freeze_prototypes_steps=freeze)
        optim = dataclasses.replace(config.optim, lr=config.optim.lr * factor)
        schedule = dataclasses.replace(config.schedule, warmup_steps=0)
        return dataclasses.replace(config, codes=codes, optim=optim, schedule=schedule)

    return change


def _decay(value: float, *, rate: float) -> Callable[[LearnerConfig], LearnerConfig]:
    def change(config: LearnerConfig) -> LearnerConfig:
        faster = _rate(rate)(config)
        return dataclasses.replace(
            faster, optim=dataclasses.replace(faster.optim, weight_decay=value)
        )

    return change


def _queue_at_once(config: LearnerConfig) -> LearnerConfig:
    return dataclasses.replace(config, queue=QueueConfig(length=4096, start_step=0))


def _tie(learner: Learner) -> None:
    with torch.no_grad():
        learner.model.prototypes.weight.copy_(learner.model.prototypes.weight[:1].expand(
            learner.config.model.num_prototypes, -1))  # fmt: skip


def _nan_image(learner: Learner) -> None:
    """One pixel of one image is NaN, once the run is under way: uint8 has none, colours may."""
    prepare = learner._prepare

    def spoiled(family: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        images = prepare(family, generator)
        if learner.step_count == NAN_AT:
            images[0, 0, 0, 0, 0] = float("nan")
        return images

    learner._prepare = spoiled  # type: ignore[method-assign]


FAILURES: dict[str, Failure] = {
    "healthy": Failure(what="the demo recipe as shipped", right=()),
    "epsilon too large": Failure(
        what="epsilon 1", right=("codes_uniform", "stuck_at_log_k"), change=_epsilon(1.0)
    ),
    "epsilon too small": Failure(
        what="epsilon 0.0005", right=("codes_one_hot",), change=_epsilon(0.0005)
    ),
    "no freeze, large rate": Failure(
        what="prototypes free from step 0, rate x 10, no warm-up",
        right=("prototypes_drifting", "embedding_collapse", "steep_spectrum"),
        change=_rate(10, freeze=0),
    ),
    "rate x 30": Failure(
        what="rate x 30, no warm-up",
        right=("prototypes_drifting", "embedding_collapse", "steep_spectrum"),
        change=_rate(30),
    ),
    "decay too large": Failure(
        what="weight decay 100, rate x 10", change=_decay(100, rate=10),
        right=("embedding_collapse", "narrow_prototype_usage"),
    ),
    "constant images": Failure(
        what="the same grey picture again and again",
        right=("near_duplicates", "embedding_collapse"), stream="constant",
    ),
    "one class only": Failure(
        what="pictures of one class",
        right=("near_duplicates", "views_disagree", "stuck_at_log_k"), stream="one class",
    ),
    "NaN in an image": Failure(
        what=f"one NaN pixel in step {NAN_AT + 1}", right=("nonfinite_steps",), spoil=_nan_image
    ),
    "prototypes tied": Failure(
        what="all prototypes equal from the start", right=("duplicate_prototypes",), spoil=_tie
    ),
    "queue too early": Failure(
        what="a queue of 64 batches from step 0",
        right=("queue_stale", "queue_distorts_codes"), change=_queue_at_once,
    ),
}  # fmt: skip


def write_stream(kind: str, folder: Path) -> None:
    """`IMAGES` pictures as shards."""
    folder.mkdir(parents=True)
    if kind == "mixed":
        for index in range(IMAGES // 500):
            write_synthetic_shard(folder / f"{index:05d}.tar", num_samples=500, seed=1,
                                  shard_index=index, size=48, drift=0.0)  # fmt: skip
        return
    rng = np.random.default_rng(1)
    for index in range(IMAGES // 500):
        samples = (
            (f"{index:03d}{i:04d}",
             {"jpg": encode(np.full((48, 48, 3), 127, np.uint8) if kind == "constant"
                            else render(0, rng, size=48))})
            for i in range(500)
        )  # fmt: skip
        write_shard(folder / f"{index:05d}.tar", samples)


def run(failure: Failure, config: RunConfig) -> dict[str, Any]:
    """Train; findings by the step at which each was first raised, and the last values."""
    raised: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    ranges: dict[str, list[float]] = {}
    judge = RunJudge(config)

    def on_report(status: LearnerStatus) -> None:
        snapshot = RunStatus(
            run="", config_digest=digest(config), started_at=time.time(), generation=1,
            state="training", num_prototypes=config.learner.model.num_prototypes, learner=status,
            learner_up=True,
        )  # fmt: skip
        now = time.time()
        for finding in (*status.health.findings, *judge.judge(snapshot, now=now)):
            raised.setdefault(finding.name, status.step)
        verdicts.setdefault(status.health.verdict, status.step)
        if status.step > config.learner.health.stuck_after_steps:
            for name, value in dataclasses.asdict(status.signs).items():
                if value is not None:
                    low, high = ranges.get(name, (value, value))
                    ranges[name] = [min(low, value), max(high, value)]

    start = inprocess.start_learner

    def start_spoiled(*arguments: Any, **options: Any) -> Any:
        learner, resumed = start(*arguments, **options)
        failure.spoil(learner)
        return learner, resumed

    desk = RecordingDesk(on_report=on_report)
    inprocess.start_learner = start_spoiled
    begun = time.monotonic()
    try:
        ending = train_in_process(config, desk)
    except NonFiniteLossError as error:
        ending = str(error)
    finally:
        inprocess.start_learner = start
    named = [raised[name] for name in failure.right if name in raised]
    last = desk.reports[-1]
    return {
        "what": failure.what, "right": failure.right, "raised": raised, "verdicts": verdicts,
        "named_at_step": min(named) if named else None, "steps": last.step, "ending": ending,
        "seconds": time.monotonic() - begun, "signs_after_start": ranges,
        "near_duplicate_ratio": last.near_duplicate_ratio,
    }  # fmt: skip


def verdict_on(result: dict[str, Any]) -> str:
    """Whether the run was judged rightly."""
    if not result["right"]:
        return "right" if not result["raised"] else "FALSE ALARM"
    return "MISSED" if result["named_at_step"] is None else "right"


def worst(result: dict[str, Any]) -> str:
    """The worst verdict, and the step at which it was first given."""
    verdict = max(result["verdicts"], key=VERDICTS.index)
    return f"{verdict} {result['verdicts'][verdict]}"


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """The confusion table."""
    table = Table(title="findings by the step at which they were raised", title_justify="left")
    for name in ("run", "named at step", "by", "also raised", "verdict", "judged"):
        table.add_column(name, overflow="fold")
    for name, result in results.items():
        at = result["named_at_step"]
        by = [f"{n} {s}" for n, s in result["raised"].items() if n in result["right"]]
        also = [f"{n} {s}" for n, s in result["raised"].items() if n not in result["right"]]
        table.add_row(name, "-" if at is None else str(at), ", ".join(by) or "-",
                      ", ".join(also) or "-", worst(result), verdict_on(result))  # fmt: skip
    Console().print(table)


def main() -> None:
    """Run them one by one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=260)
    parser.add_argument("--only", nargs="+", choices=tuple(FAILURES), default=tuple(FAILURES))
    parser.add_argument("--shards", help="also a healthy run on these")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/health-runs.json"))
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            failure = FAILURES[name]
            stream = Path(folder) / "streams" / failure.stream
            if not stream.exists():
                write_stream(failure.stream, stream)
            base = preset("demo", run=str(Path(folder) / name.replace(" ", "-")),
                          source=(f"s={stream}",), when_idle="replay", report_every_s=0.5,
                          stop_after_steps=options.steps, threads=1)  # fmt: skip
            results[name] = run(failure, _prepared(base, failure))
            print_table({name: results[name]})
            _write(options.json, options.steps, results)
        if options.shards:
            base = preset("imagenette-cpu", run=str(Path(folder) / "real"),
                          source=(f"s={options.shards}",), when_idle="replay", report_every_s=0.5,
                          stop_after_steps=options.steps)  # fmt: skip
            healthy = Failure(what="the imagenette-cpu recipe", right=())
            results["healthy, real images"] = run(healthy, _prepared(base, healthy))
    print_table(results)
    _write(options.json, options.steps, results)


def _write(path: Path, steps: int, results: dict[str, dict[str, Any]]) -> None:
    write_json(path, {"machine": machine("torch"), "steps": steps, "runs": results})


def _prepared(base: RunConfig, failure: Failure) -> RunConfig:
    health = dataclasses.replace(base.learner.health, window_images=2048, stuck_after_steps=80)
    return dataclasses.replace(
        base,
        learner=failure.change(dataclasses.replace(base.learner, health=health)),
        act=dataclasses.replace(base.act, enabled=False),
        checkpoint=dataclasses.replace(base.checkpoint, every_steps=10**6, every_s=10**6),
    )


if __name__ == "__main__":
    main()
