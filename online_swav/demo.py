"""`online-swav demo`: a producer writes synthetic shards while the system trains on them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from online_swav.assemble import load_probe_images
from online_swav.config import RunConfig
from online_swav.console import status_from_json
from online_swav.errors import ConfigError
from online_swav.evaluation.features import raw_pixel_features
from online_swav.evaluation.knn import knn_accuracy
from online_swav.presets import preset
from streams.synthetic import CLASS_NAMES, write_synthetic_shard

SIZE = 48
SAMPLES_PER_SHARD = 500
SHARD_EVERY_S = 5.0


def run_demo(
    run: Path | None, *, samples: int, port: int, seed: int, train: Callable[[RunConfig], int]
) -> int:
    """Produce, train, probe, and say what happened; the exit code.

    Raises:
        ConfigError: If the run folder holds something already.
    """
    run = run or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} is not empty; give the demo a new folder with --run")
    console = Console()
    labelled, stream = run / "labelled", run / "stream"
    labelled.mkdir(parents=True)
    stream.mkdir()
    for index, (part, count) in enumerate((("train", 1000), ("test", 500))):
        write_synthetic_shard(labelled / f"{part}.tar", num_samples=count, seed=seed + 10_000,
                              shard_index=index, size=SIZE, drift=0.0)  # fmt: skip
    config = preset(
        "demo",
        run=str(run),
        source=(f"demo={stream}",),
        probe_train=(str(labelled / "train.tar"),),
        probe_test=(str(labelled / "test.tar"),),
        stop_after_samples=samples,
        seed=seed,
    )
    config = dataclasses.replace(config, metrics=dataclasses.replace(config.metrics, port=port))
    raw = _raw_pixel_accuracy(config)
    console.print(
        f"A producer writes {SAMPLES_PER_SHARD} images every {SHARD_EVERY_S:.0f} s: "
        f"{len(CLASS_NAMES)} classes of shape x texture,\ncolours at random. The learner sees no "
        f"label. k-NN on raw pixels: {raw:.3f}\n",
        highlight=False,
    )
    producer = _start_producer(stream, samples_per_shard=SAMPLES_PER_SHARD, every_s=SHARD_EVERY_S,
                               seed=seed, size=SIZE)  # fmt: skip
    begun = time.monotonic()
    try:
        while producer.poll() is None and not any(stream.glob("*.tar")):
            time.sleep(0.05)
        code = train(config)
    finally:
        producer.terminate()
        try:
            producer.wait(timeout=10)
        except subprocess.TimeoutExpired:
            producer.kill()
    if code == 0:
        _tell(console, run, raw, time.monotonic() - begun)
    return code


def _raw_pixel_accuracy(config: RunConfig) -> float:
    train, test = load_probe_images(config)
    return knn_accuracy(
        raw_pixel_features(train.images), train.labels, raw_pixel_features(test.images),
        test.labels, k=config.probe.k, temperature=config.probe.temperature,
    )  # fmt: skip


def _tell(console: Console, run: Path, raw: float, seconds: float) -> None:
    status = status_from_json((run / "status.json").read_text())
    if len(status.probes) > 1:
        first, last = status.probes[0], status.probes[-1]
        console.print(
            f"\nIn {seconds:.0f} s the k-NN accuracy on held-out images went from "
            f"{first.knn_accuracy:.3f} (random weights) to {last.knn_accuracy:.3f}; "
            f"raw pixels give {raw:.3f}.",
            highlight=False,
        )
    console.print(
        "What to try next:\n"
        f"  online-swav ledger verify --run {run}     the fate of every image\n"
        f"  online-swav status --run {run}            the last snapshot\n"
        f"  online-swav evaluate knn --run {run}      the encoder against its baselines\n"
        "  online-swav train --source YOUR_SHARDS --run runs/mine --preset imagenette-cpu",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _start_producer(out: Path, *, samples_per_shard: int, every_s: float, seed: int, size: int
                   ) -> subprocess.Popen[bytes]:  # fmt: skip
    """A process that keeps writing synthetic shards until it is terminated or orphaned."""
    return subprocess.Popen(
        [sys.executable, "-m", "online_swav", "synth", str(out), "--seed", str(seed),
         "--samples-per-shard", str(samples_per_shard), "--every-s", str(every_s),
         "--size", str(size)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
