"""What the representation is worth: Imagenette, ResNet-18, beside lightly's published number.

    python benchmarks/imagenette.py --images DIR --out benchmarks/results/gpu/imagenette.json \
        --minutes 9

DIR holds `train-*.tar` and `val-*.tar`. Training stops after `--minutes`, or on SIGTERM, with a
checkpoint, and exit code 75; the same command goes on. At the end it writes the JSON and exits with
0. Beside lightly's benchmark (docs, Imagenette table: batch 256, 200 epochs, k-NN of the best
epoch, one A6000): the same network, crops, colours, optimizer, rate and number of images; here they
come as a stream, replayed until every image was trained `--passes` times on average. lightly probes
every epoch, here every `PROBE_EVERY_PASSES` passes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine, write_json
from rich.console import Console
from rich.table import Table
from torch import nn

from online_swav.config import CheckpointConfig, RunConfig
from online_swav.errors import OnlineSwavError
from online_swav.evaluation.data import LabelledImages, labelled_images
from online_swav.evaluation.features import extract_features
from online_swav.evaluation.knn import knn_accuracy
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.config import QueueConfig, ScheduleConfig
from online_swav.presets import preset
from online_swav.status import LearnerStatus, ProbeStatus
from streams.config import IngestConfig, SourceConfig
from streams.errors import StreamError

PUBLISHED = {
    "from": "lightly docs, benchmarks, Imagenette table, SwAV", "epochs": 200,
    "knn_best": 0.861, "minutes": 73.3, "gpu": "NVIDIA RTX A6000", "gpu_gb": 6.4,
}  # fmt: skip
NEIGHBOURS = (20, 200)
"""lightly's docs say 20, its code computes 200, both with `TEMPERATURE`."""
TEMPERATURE = 0.1
PROBE_EVERY_PASSES = 10
COPIES = 10
"""Of the data in the stream: a pass of ten small tars would end while most readers have none."""


def recipe(options: argparse.Namespace, images: int) -> RunConfig:
    """The preset with what lightly's benchmark does differently, for a known horizon."""
    base = preset(options.preset)
    steps = options.passes * images // options.batch_size
    learner = base.learner
    return dataclasses.replace(
        base,
        run=str(options.run),
        source=(f"imagenette={options.run / 'stream'}",),
        when_idle="replay",
        stop_after_samples=options.passes * images,
        device=options.device,
        threads=max(1, len(os.sched_getaffinity(0)) - options.readers),  # what readers leave
        report_every_s=2.0,
        discovery=SourceConfig(poll_s=60.0, settle_s=0.0),  # all tars are whole from the start
        ingest=IngestConfig(
            actors=options.readers, batch_size=options.batch_size, open_shards=2, window=512
        ),
        learner=dataclasses.replace(
            learner,
            # A stream has no horizon; this one ends, and lightly's rate falls along a cosine.
            schedule=ScheduleConfig(
                kind="cosine",
                warmup_steps=min(learner.schedule.warmup_steps, steps // 10),
                total_steps=max(steps, 1),
            ),
            # In lightly's table the queue costs 0.034; its colour jitter is half of the official.
            queue=QueueConfig(),
            augment=dataclasses.replace(learner.augment, jitter=(0.4, 0.4, 0.4, 0.1)),
        ),
        checkpoint=CheckpointConfig(every_steps=10**6, every_s=120, keep=1),
        probe=dataclasses.replace(
            base.probe, every_steps=max(1, PROBE_EVERY_PASSES * images // options.batch_size)
        ),
    )


def lay_out_stream(tars: Sequence[Path], folder: Path, copies: int) -> None:
    """Copies of the tars, pass after pass; those that are there stay."""
    for copy in range(copies):
        place = folder / f"copy-{copy:02d}"
        place.mkdir(parents=True, exist_ok=True)
        for tar in tars:
            if not (place / tar.name).exists():
                unfinished = place / f".{tar.name}.tmp"
                shutil.copyfile(tar, unfinished)
                unfinished.rename(place / tar.name)


class Progress:
    """What is known so far, in the run folder, over all commands.

    Args:
        path: Its JSON file.
        settings: Of this command.

    Raises:
        OnlineSwavError: If the run was begun with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self.commands: list[dict[str, float]] = []
        self.probes: dict[str, dict[str, float]] = {}
        if path.exists():
            known = json.loads(path.read_text())
            if known["settings"] != settings:
                raise OnlineSwavError(
                    f"{path.parent} was begun with {known['settings']}, not {settings}; "
                    "give the same options, or another --run"
                )
            self.commands, self.probes = known["commands"], known["probes"]
        self.settings = settings
        self.commands.append({})
        self.update()

    def update(self, **values: float) -> None:
        """The newest numbers of this command; on disk at once."""
        self.commands[-1].update(values)
        unfinished = self._path.with_name(f".{self._path.name}.tmp")
        known = {"settings": self.settings, "commands": self.commands, "probes": self.probes}
        unfinished.write_text(json.dumps(known, indent=1))
        unfinished.replace(self._path)

    def total(self, name: str) -> float:
        """Sum of a number over the commands."""
        return sum(command.get(name, 0.0) for command in self.commands)


class Desk(RecordingDesk):
    """Writes every report down, and stops at a deadline."""

    def __init__(self, progress: Progress, deadline: float) -> None:
        super().__init__()
        self.measured: dict[str, float] = {}
        """What the last probe found, by k."""
        self._progress = progress
        self._deadline = deadline
        self._begun = time.monotonic()

    def report(self, status: LearnerStatus) -> None:
        """See `trainer.Desk`."""
        super().report(status)
        phases = status.phase_s
        self._progress.update(
            steps=status.step, images=status.samples_seen, waiting_s=phases["wait"],
            probing_s=phases["probe"], training_s=sum(phases.values()) - phases["probe"],
            wall_s=time.monotonic() - self._begun,
        )  # fmt: skip
        if torch.cuda.is_available():
            self._progress.update(peak_gpu_mb=torch.cuda.max_memory_allocated() / 1e6)

    def probed(self, status: ProbeStatus) -> None:
        """See `trainer.Desk`."""
        super().probed(status)
        self._progress.probes[str(status.step)] = self.measured
        self._progress.update()
        found = ", ".join(f"{name}: {value:.3f}" for name, value in self.measured.items())
        print(f"step {status.step}: k-NN {found}", flush=True)

    def wants_stop(self) -> bool:
        """See `trainer.Desk`."""
        return self.stop or time.monotonic() > self._deadline


def build_probe(
    config: RunConfig, sides: Sequence[LabelledImages], desk: Desk
) -> Callable[[nn.Module], float]:
    """Measures k-NN of a backbone with every k of `NEIGHBOURS`; the first one goes to the run.

    Args:
        config: The run.
        sides: Training images, held-out images.
        desk: Learns all of it.
    """
    augment = config.learner.augment
    train, val = sides

    def measure(backbone: nn.Module) -> float:
        seen, held_out = (
            extract_features(backbone, side.images.split(256), mean=augment.mean, std=augment.std,
                             device=config.device)
            for side in sides
        )  # fmt: skip
        desk.measured = {
            f"k{k}": round(knn_accuracy(seen, train.labels, held_out, val.labels, k=k,
                                        temperature=TEMPERATURE), 4)
            for k in NEIGHBOURS
        }  # fmt: skip
        return desk.measured[f"k{NEIGHBOURS[0]}"]

    return measure


def summary(progress: Progress) -> dict[str, Any]:
    """The result of a finished run."""
    last = progress.commands[-1]
    probes = [{"step": int(step), **found} for step, found in progress.probes.items()]
    probes.sort(key=lambda probe: probe["step"])
    training_s = progress.total("training_s")
    return {
        "settings": progress.settings,
        "knn": {
            f"k{k}": {"final": probes[-1][f"k{k}"], "best": max(p[f"k{k}"] for p in probes)}
            for k in NEIGHBOURS
        },
        "published": PUBLISHED,
        "steps": int(last["steps"]), "images_trained": int(last["images"]),
        "commands": len(progress.commands),
        "wall_s": round(progress.total("wall_s"), 1),
        "training_s": round(training_s, 1),
        "probing_s": round(progress.total("probing_s"), 1),
        "images_per_s": round(last["images"] / training_s, 1),
        "waiting_share": round(progress.total("waiting_s") / training_s, 4),
        "peak_gpu_mb": round(max(c.get("peak_gpu_mb", 0.0) for c in progress.commands)),
        "probes": probes,
    }  # fmt: skip


def print_result(result: dict[str, Any]) -> None:
    """The table."""
    table = Table(title="k-NN on held-out images")
    for name in ("", "final", "best"):
        table.add_column(name, justify="left" if not name else "right")
    for name, found in result["knn"].items():
        table.add_row(f"ours, {name}", f"{found['final']:.3f}", f"{found['best']:.3f}")
    table.add_row(f"lightly, {PUBLISHED['epochs']} epochs", "", f"{PUBLISHED['knn_best']:.3f}")
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{result['images_trained']:,} images in {result['training_s'] / 60:.1f} minutes "
        f"({result['images_per_s']:,.0f}/s), {result['waiting_share']:.1%} of that waiting; "
        f"probes {result['probing_s'] / 60:.1f} minutes. lightly: {PUBLISHED['minutes']} minutes "
        f"with its probes. Peak GPU memory {result['peak_gpu_mb']:,} MB",
        highlight=False,
    )


def train(options: argparse.Namespace, begun: float) -> dict[str, Any] | None:
    """Train until the end or the deadline; the result at the end.

    Raises:
        OnlineSwavError, StreamError, ValueError: What is wrong with options or images, in words.
    """
    tars = sorted(options.images.glob("train-*.tar"))
    size = preset(options.preset).probe.size
    sides = [
        labelled_images([str(options.images / name)], size=size).held()
        for name in ("train-*.tar", "val-*.tar")
    ]
    images = len(sides[0].labels)
    options.run.mkdir(parents=True, exist_ok=True)
    progress = Progress(
        options.run / "progress.json",
        {"preset": options.preset, "passes": options.passes, "images": images,
         "batch_size": options.batch_size, "readers": options.readers, "device": options.device},
    )  # fmt: skip
    lay_out_stream(tars, options.run / "stream", min(COPIES, options.passes))
    config = recipe(options, images)
    desk = Desk(progress, begun + 60 * options.minutes)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(desk, "stop", True))
    train_in_process(config, desk, probe=build_probe(config, sides, desk))
    trained, wanted = desk.reports[-1].samples_seen, config.stop_after_samples
    assert wanted is not None
    if trained < wanted:
        print(f"{trained:,} of {wanted:,} images trained; run the same command again")
        return None
    return summary(progress)


def main() -> int:
    """Parse, train, and at the end print and write; 75 when it must be called again."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of train- and val- tars")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which it stops")
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--preset", default="imagenette")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--readers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2),
                        help="reader processes; cores - 2 without it")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--run", type=Path, default=Path("runs/imagenette-benchmark"),
                        help="run folder, with the stream and the checkpoints")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    if min(options.passes, options.batch_size, options.readers) < 1:
        parser.exit(2, "imagenette.py: --passes, --batch-size and --readers must be at least 1\n")
    try:
        result = train(options, begun)
    except (OnlineSwavError, StreamError, ValueError) as error:
        parser.exit(2, f"imagenette.py: {error}\n")
    if result is None:
        return os.EX_TEMPFAIL
    print_result(result)
    write_json(options.out, {"machine": machine("torch", "torchvision"), **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
