"""A learner's step: where its time goes, beside the official step, lightly's, the bare backbone.

    python benchmarks/step.py --setting cpu --official path/to/swav --out step-cpu.json

All contenders train on the same crops, on the device already, and take turns. The peers get them
augmented and normalised, since there the loader's cores do that; ours gets bytes and augments them
in its step. On a CPU ours is measured in bfloat16, where the processor has it, and in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from measuring import by_turns, machine, ratio, seconds, spread, write_json
from peers import LR, Step, lightly_step, official_step
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from online_swav.learning.compilation import compiled
from online_swav.learning.config import LearnerConfig, ModelConfig, OptimConfig, QueueConfig
from online_swav.learning.learner import Learner
from online_swav.learning.loss import swapped_prediction_loss
from online_swav.learning.nonfinite import Snapshot
from online_swav.learning.vitals import StepTensors
from streams.ledger import Ledger
from streams.shard import Origin, SampleId, Shard


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained."""

    backbone: str
    crops: tuple[tuple[int, int], ...]
    """(number, side) of each family."""
    batch: int
    prototypes: int
    queue: int


SETTINGS = {
    "cpu": Setting("resnet18", ((2, 96), (4, 48)), 64, 3000, 0),
    "gpu": Setting("resnet50", ((2, 224), (6, 96)), 256, 3000, 3840),
    "toy": Setting("resnet18", ((2, 32), (2, 20)), 8, 30, 16),
}
REPORT_EVERY_S = 1.0


def make_learner(setting: Setting, device: str, *, autocast: str, compile: bool) -> Learner:
    """Ours, with the optimizer of the peers."""
    config = LearnerConfig(
        model=ModelConfig(backbone=setting.backbone, num_prototypes=setting.prototypes),
        queue=QueueConfig(length=setting.queue), autocast=autocast,  # type: ignore[arg-type]
        optim=OptimConfig(kind="sgd", lr=LR, weight_decay=1e-6),
    )  # fmt: skip
    return Learner(config, device=device, compile=compile)


def make_crops(setting: Setting, device: str) -> list[Tensor]:
    """Bytes `[v, B, 3, s, s]` per family, channels last in memory, as ingest delivers them."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (v, setting.batch, s, s, 3), dtype=torch.uint8, generator=generator)
        .permute(0, 1, 4, 2, 3)
        .to(device)
        for v, s in setting.crops
    ]


def augmented(learner: Learner, crops: Sequence[Tensor]) -> list[Tensor]:
    """What the network sees, `[v, B, 3, s, s]`."""
    generator = torch.Generator().manual_seed(0)
    return [learner._prepare(family, generator) for family in crops]


# -- the split: every part alone, on tensors of a real step ----------------------------------------


def parts(
    learner: Learner, crops: Sequence[Tensor], device: str, folder: Path, *, compile: bool
) -> dict[str, Callable[[], object]]:
    """What a step does, part by part; each can be called again and again."""
    model, config, views = learner.model, learner.config, sum(len(family) for family in crops)
    batch = crops[0].shape[1]
    families = augmented(learner, crops)
    autocast = partial(
        torch.autocast, torch.device(device).type, dtype=torch.bfloat16,
        enabled=config.autocast == "bf16",
    )  # fmt: skip
    trunk = nn.Sequential(model.backbone, model.projection_head)
    run_trunk = compiled(trunk) if compile else trunk

    def network() -> None:
        with autocast():
            out = torch.cat([run_trunk(family.flatten(0, 1)) for family in families])
        out.float().sum().backward()

    projected = torch.randn(views * batch, config.model.embedding_dim, device=device)
    projected.requires_grad_()

    def score() -> Tensor:
        embeddings = F.normalize(projected, dim=1)
        return F.linear(embeddings, model.prototypes.weight).unflatten(0, (views, batch))

    scores = score().detach().requires_grad_()
    codes = learner._codes(scores[:2].detach(), epsilon=0.05)
    assigned = F.normalize(projected.detach(), dim=1).unflatten(0, (views, batch))[:2]
    no = torch.zeros((), dtype=torch.bool, device=device)
    books = Ledger(folder / "ledger.sqlite")
    report = learner.step(crops)

    def loss() -> None:
        swapped_prediction_loss(scores, codes, temperature=0.1).backward()

    def update() -> None:
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        learner._update(assigned, unless=no)

    left = StepTensors(
        images=families[0][0], features=torch.randn(batch, model.feature_dim, device=device),
        embeddings=assigned[0], scores=scores[0].detach(), loss=no.float(),
        code_entropy=no.float(), view_agreement=no.float(), grad_norm=(~no).float(), skipped=no,
    )  # fmt: skip

    def measure_health() -> None:
        learner._vitals.measure(
            next(steps), left, images=batch, prototypes=model.prototypes.weight.detach(),
            queue=learner._queue, adjustments=learner.adjustments,
        )  # fmt: skip

    def claim() -> None:
        shard = Shard(url=f"/shard-{next(numbers):06d}.tar", size_bytes=1, fingerprint="1-1",
                      discovered_at=0.0, source="benchmark")  # fmt: skip
        books.add([shard])
        lease = books.lease("benchmark", generation=books.generation)
        assert lease is not None
        origins = [Origin(SampleId(shard.id, i), 0, lease.token) for i in range(batch)]
        books.claim(origins, generation=books.generation, rank=0, step=1)

    numbers, steps = itertools.count(), itertools.count(1)
    return {
        "backbone and head": network,
        "augment": lambda: augmented(learner, crops),
        "scores": lambda: score().sum().backward(),
        "Sinkhorn": lambda: learner._codes(scores[:2].detach(), epsilon=0.05),
        "loss": loss,
        "optimizer, prototypes, queue": update,
        "batch norm copy": lambda: Snapshot(list(model.buffers())).restore(where=no),
        "health": measure_health,
        "claim": claim,
        "report, once a second": lambda: (report.to_host(), learner.health()),
    }


def split(
    setting: Setting, device: str, options: argparse.Namespace, *, autocast: str, compile: bool
) -> dict[str, Any]:
    """Milliseconds of the whole step and of its parts, and the share that is no network."""
    learner = make_learner(setting, device, autocast=autocast, compile=compile)
    crops = make_crops(setting, device)
    for _ in range(3 + setting.queue // setting.batch):
        learner.step(crops)
    with tempfile.TemporaryDirectory(prefix="step-benchmark-") as name:
        pieces = parts(learner, crops, device, Path(name), compile=compile)
        calls = {"step": lambda: learner.step(crops), **pieces}
        taken = by_turns(
            {part: partial(seconds, call, device) for part, call in calls.items()},
            options.repetitions,
        )
    step_s = statistics.median(taken["step"])
    # A report is made once a second, not at every step.
    taken["report, once a second"] = [
        s * min(step_s / REPORT_EVERY_S, 1.0) for s in taken["report, once a second"]
    ]
    others = [sum(taken[part][turn] for part in pieces if part != "backbone and head")
              for turn in range(options.repetitions)]  # fmt: skip
    return {
        "ms": {part: spread([1e3 * s for s in values], 2) for part, values in taken.items()},
        "share_of_parts_that_are_no_network": ratio(
            others, [o + n for o, n in zip(others, taken["backbone and head"], strict=True)]
        ),
        "step_by_network": ratio(taken["step"], taken["backbone and head"]),
        "images_per_s": round(setting.batch / step_s, 1),
    }


# -- peers, ceiling, memory ------------------------------------------------------------------------


def contenders(
    setting: Setting, device: str, official: Path | None, *, compile: bool
) -> dict[str, Callable[[], Step]]:
    """How to make a step of each; made one at a time where memory is measured."""
    crops = make_crops(setting, device)

    def ours(autocast: str) -> Step:
        learner = make_learner(setting, device, autocast=autocast, compile=compile)
        return lambda: learner.step(crops)

    def bare() -> Step:
        learner = make_learner(setting, device, autocast="bf16", compile=compile)
        families = augmented(learner, crops)
        backbone = learner.model.backbone
        run = compiled(backbone) if compile else backbone

        def step() -> None:
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                features = [run(family.flatten(0, 1)) for family in families]
            sum(f.float().sum() for f in features).backward()
            for p in backbone.parameters():
                p.grad = None

        return step

    def normalised() -> list[Tensor]:
        return augmented(make_learner(setting, device, autocast="off", compile=False), crops)

    found: dict[str, Callable[[], Step]] = {"ours": lambda: ours("bf16")}
    if device == "cpu":
        found["ours in float32"] = lambda: ours("off")
    if official is not None:
        found["official"] = lambda: official_step(
            official, setting.backbone, setting.prototypes, normalised()
        )
    if importlib.util.find_spec("lightly") is not None:
        found["lightly"] = lambda: lightly_step(setting.backbone, setting.prototypes, normalised())
    found["bare backbone"] = bare
    return found


def memory_mb(make: Callable[[], Step], device: str) -> float:
    """Peak memory of three steps: of the GPU, or of this process beyond what it begins with."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = psutil.Process().memory_info().rss
    step = make()
    for _ in range(3):
        step()
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    # Not ru_maxrss: a new process begins with that of its parent.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return (1024 * int(status["VmHWM"].split()[0]) - before) / 1e6


def memory_of(name: str, options: argparse.Namespace, compile: bool) -> float:
    """The same by name."""
    setting = dataclasses.replace(SETTINGS[options.setting], queue=0)
    made = contenders(setting, options.device, options.official, compile=compile)
    return memory_mb(made[name], options.device)


def memories(setting: Setting, options: argparse.Namespace, *, compile: bool) -> dict[str, int]:
    """Of each contender, on a CPU in a process of its own: forked, so before any other work."""
    found = {}
    for name in contenders(setting, options.device, options.official, compile=compile):
        if options.device == "cuda":
            found[name] = round(memory_of(name, options, compile))
        else:
            with ProcessPoolExecutor(1, get_context("fork")) as alone:
                found[name] = round(alone.submit(memory_of, name, options, compile).result())
    return found


def against_peers(
    setting: Setting, options: argparse.Namespace, *, compile: bool
) -> dict[str, Any]:
    """Images per second of all, and how much faster ours is."""
    setting = dataclasses.replace(setting, queue=0)  # lightly's loop has none
    made = contenders(setting, options.device, options.official, compile=compile)
    steps = {name: make() for name, make in made.items()}
    rates = by_turns(
        {name: partial(rate, step, setting.batch, options) for name, step in steps.items()},
        options.repetitions,
    )
    return {
        "images_per_s": {name: spread(values) for name, values in rates.items()},
        "ours_by": {name: ratio(rates["ours"], values) for name, values in rates.items()},
    }


def rate(step: Step, batch: int, options: argparse.Namespace) -> float:
    """Images per second of some steps in a row: a GPU is not waited for between them."""

    def several() -> None:
        for _ in range(options.steps):
            step()

    return batch * options.steps / seconds(several, options.device)


def waits_for_the_device(setting: Setting, *, compile: bool) -> str | None:
    """The first place in ten steps where the host waits for the GPU; None without any."""
    learner = make_learner(setting, "cuda", autocast="bf16", compile=compile)
    crops = [family.cpu() for family in make_crops(setting, "cuda")]
    for _ in range(3 + setting.queue // setting.batch):
        learner.step(crops)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            learner.step(crops)
    except RuntimeError as error:
        return str(error).split("\n", 1)[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


# -- the whole -------------------------------------------------------------------------------------


def print_result(result: dict[str, Any], console: Console) -> None:
    """Tables for people."""
    for name, taken in result["split"].items():
        table = Table(title=f"one step, {name}: {taken['images_per_s']} images/s")
        for column in ("part", "ms (spread)", "share"):
            table.add_column(column, justify="left" if column == "part" else "right")
        whole = taken["ms"]["step"]["median"]
        for part, ms in taken["ms"].items():
            table.add_row(part, f"{ms['median']:.2f} ({ms['min']:.2f} to {ms['max']:.2f})",
                          f"{ms['median'] / whole:.1%}")  # fmt: skip
        console.print(table)
        share = taken["share_of_parts_that_are_no_network"]
        console.print(f"of the parts, no backbone or head: {share:.1%}", highlight=False)
    peers = result["peers"]
    table = Table(title="training on the same crops")
    for column in ("", "images/s (spread)", "ours is faster by", "peak memory, MB"):
        table.add_column(column, justify="right")
    for name, r in peers["images_per_s"].items():
        faster, memory = peers["ours_by"][name], peers["peak_memory_mb"][name]
        table.add_row(name, f"{r['median']} ({r['min']} to {r['max']})", f"{faster:.2f}",
                      f"{memory:,}")  # fmt: skip
    console.print(table)
    if "host_waits_at" in result:
        console.print(f"the host waits for the GPU: {result['host_waits_at'] or 'nowhere'}")


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", default="cpu", choices=tuple(SETTINGS))
    parser.add_argument("--device", default=None, choices=("cpu", "cuda"),
                        help="by default a GPU for the setting gpu")  # fmt: skip
    parser.add_argument("--official", type=Path, help="checkout of facebookresearch/swav")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="in a row, beside the peers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if options.setting == "gpu" else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --setting gpu needs one, --setting cpu does not")
    torch.set_num_threads(options.threads)
    setting, gpu = SETTINGS[options.setting], options.device == "cuda"
    memory = memories(setting, options, compile=gpu)
    ways = {"compiled": True, "uncompiled": False} if gpu else {"bfloat16": False}
    result: dict[str, Any] = {
        "command": f"python benchmarks/step.py --setting {options.setting}",
        "machine": machine("torch", "torchvision", "lightly"), "threads": options.threads,
        "setting": dataclasses.asdict(setting),
        "split": {name: split(setting, options.device, options, autocast="bf16", compile=compile)
                  for name, compile in ways.items()},
    }  # fmt: skip
    result["peers"] = against_peers(setting, options, compile=gpu)
    result["peers"]["peak_memory_mb"] = memory
    if gpu:
        result["host_waits_at"] = waits_for_the_device(setting, compile=True)
    print_result(result, Console(width=100))
    write_json(options.out, result)


if __name__ == "__main__":
    main()
