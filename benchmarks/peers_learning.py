"""The paper's argument as a table: no bank of negatives, small batches. SwAV beside its peers.

    python benchmarks/peers_learning.py --toy
    python benchmarks/peers_learning.py --images 'DIR/train-*.tar' --test 'DIR/val-*.tar' \
        --preset imagenette-cpu --images-seen 57600 --out benchmarks/results/peers-learning.json

SwAV of this project, and SwAV, SimCLR and MoCo v2 from lightly (pip install 'online-swav[bench]'),
on the same shards, backbone, colours, precision, number of images seen, and crop budget: pixels of
all crops of an image. Both SwAVs spend it on multi-crop, the contrastive ones on two larger views.
Every method is trained in a process of its own, one after the other, and judged at the same numbers
of images by k-NN and a linear probe. Its clock counts training and waiting for crops, not judging.
Numbers of each method: `peers_learning_methods.py`. Nothing is compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import torch
from measuring import machine, write_json
from peers_learning_methods import METHODS, Method, Plan
from peers_learning_stream import batches
from rich.console import Console
from rich.table import Table
from torch import nn

from online_swav.config import RunConfig
from online_swav.errors import OnlineSwavError
from online_swav.evaluation.data import LabelledImages
from online_swav.evaluation.knn import knn_accuracy
from online_swav.evaluation.linear import LinearConfig, cached, linear_probe
from online_swav.evaluation.pairs import labelled_pair
from online_swav.learning.config import ModelConfig
from online_swav.presets import preset
from streams.config import CropFamily
from streams.errors import StreamError
from streams.synthetic import write_synthetic_shard

K, TEMPERATURE = 20, 0.07
BANK = 4096
PROBE_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Features have the norm that the backbone gives them: after short training 0.01 is the best."""


class PeakMemory:
    """The most memory while a method trains: of the GPU, or of this process beyond the start.

    Judging between times does not count.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._at_start = 0 if self._on_gpu else psutil.Process().memory_info().rss
        self.bytes = 0

    def begin(self) -> None:
        """Forget the peak so far."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets VmHWM

    def end(self) -> None:
        """Note the peak since `begin`."""
        if self._on_gpu:
            peak = torch.cuda.max_memory_allocated()
        else:
            lines = Path("/proc/self/status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            peak = 1024 * int(status["VmHWM"].split()[0])
        self.bytes = max(self.bytes, peak - self._at_start)


def recipe(options: argparse.Namespace) -> RunConfig:
    """Our recipe; every other method takes backbone, colours and precision from it."""
    config = preset(options.preset)
    if not options.toy:
        return config
    return dataclasses.replace(
        config,
        crops=(
            CropFamily(size=32, num=2, scale=(0.5, 1.0)),
            CropFamily(size=20, num=2, scale=(0.15, 0.4)),
        ),
        learner=dataclasses.replace(
            config.learner, model=ModelConfig(hidden_dim=128, num_prototypes=16), autocast="off"
        ),
        probe=dataclasses.replace(config.probe, size=32),
    )


def plan_of(options: argparse.Namespace, config: RunConfig) -> Plan:
    """What all methods are told."""
    return Plan(
        learner=config.learner, families=config.crops, batch=options.batch_size,
        steps=options.images_seen // options.batch_size, bank=options.bank, queue=options.queue,
        seed=options.seed, device=options.device,
    )  # fmt: skip


def judge(
    backbone: nn.Module,
    config: RunConfig,
    sides: tuple[LabelledImages, LabelledImages],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Accuracy of a frozen backbone on held-out images: k-NN, and the best linear probe."""
    augment, device = config.learner.augment, torch.device(options.device)
    shift, scale = (torch.tensor(v, device=device).view(3, 1, 1) for v in
                    (augment.mean, augment.std))  # fmt: skip
    backbone.eval()
    with torch.no_grad():
        seen, held_out = (
            torch.cat([backbone((part.to(device).float() / 255 - shift) / scale).float().cpu()
                       for part in side.images.split(256)])
            for side in sides
        )  # fmt: skip
    backbone.train()
    labels, test_labels = (side.labels for side in sides)
    unit, test_unit = (nn.functional.normalize(f, dim=1) for f in (seen, held_out))
    probe = LinearConfig(epochs=options.probe_epochs, rates=PROBE_RATES, seed=options.seed)
    linear = linear_probe(
        cached(seen, labels, probe), held_out, test_labels,
        classes=int(labels.max()) + 1, config=probe, device=device,
    )  # fmt: skip
    return {
        "knn": round(knn_accuracy(unit, labels, test_unit, test_labels, k=K,
                                  temperature=TEMPERATURE), 4),
        "linear": round(linear.chosen.last["top-1"], 4),
    }  # fmt: skip


def train(
    method: Method, config: RunConfig, sides: tuple[LabelledImages, LabelledImages],
    options: argparse.Namespace, folder: Path, memory: PeakMemory,
) -> list[dict[str, float]]:  # fmt: skip
    """Train, and judge at the start and at `points` numbers of images."""
    steps = options.images_seen // options.batch_size
    due = {round(steps * (i + 1) / options.points) for i in range(options.points)}
    stream = batches(
        options.images, method.families, batch=options.batch_size, readers=options.readers,
        seed=options.seed, folder=folder,
    )  # fmt: skip
    curve = [{"images": 0, "train_s": 0.0, "wait_s": 0.0,
              **judge(method.backbone, config, sides, options)}]  # fmt: skip
    clock = waited = 0.0
    with closing(stream):
        next(stream)  # readers have started when the clock does
        memory.begin()
        for step in range(1, steps + 1):
            begun = time.perf_counter()
            crops = next(stream)
            came = time.perf_counter()
            loss = method.step(crops)
            if step in due:
                loss_now = float(loss)  # the device is done with the step
            waited += came - begun
            clock += time.perf_counter() - begun
            if step in due:
                memory.end()
                found = judge(method.backbone, config, sides, options)
                curve.append({"images": step * options.batch_size, "train_s": round(clock, 2),
                              "wait_s": round(waited, 2), "loss": round(loss_now, 4),
                              **found})  # fmt: skip
                print(f"  {curve[-1]['images']:,} images, {clock:.0f} s, loss {loss_now:.3f}: "
                      f"k-NN {found['knn']:.3f}, linear {found['linear']:.3f}",
                      file=sys.stderr, flush=True)  # fmt: skip
                memory.begin()
    return curve


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One method from its first weights to its last judgement, in this process."""
    torch.set_num_threads(options.threads)
    config = recipe(options)
    train_set, test_set = labelled_pair(
        options.images, options.test, size=config.probe.size, limit=options.probe_limit,
        flags=("--images", "--test"),
    )  # fmt: skip
    sides = train_set.held(), test_set.held()
    memory = PeakMemory(options.device)
    method = METHODS[options.only](plan_of(options, config))
    with tempfile.TemporaryDirectory(prefix="peers-learning-") as name:
        curve = train(method, config, sides, options, Path(name), memory)
    last = curve[-1]
    return {
        "curve": curve,
        "images_per_s": round(last["images"] / last["train_s"], 1),
        "images_per_s_without_waiting": round(
            last["images"] / max(last["train_s"] - last["wait_s"], 1e-9), 1
        ),
        "crops": [[f.num, f.size] for f in method.families],
        "pixels_per_image": sum(f.num * f.size**2 for f in method.families),
        "peak_memory_mb": round(memory.bytes / 1e6),
        "stored_floats": method.stored_floats,
        "momentum_floats": method.momentum_floats,
        "negatives_per_view": method.negatives,
    }


def in_time(curve: list[dict[str, float]], seconds: float, name: str) -> float:
    """The last measure that was there after so many seconds of training."""
    return [point[name] for point in curve if point["train_s"] <= seconds][-1]


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """The tables."""
    methods = result["methods"]
    points = [point["images"] for point in next(iter(methods.values()))["curve"]]
    curves = Table(title=f"k-NN (k {K}) / linear accuracy after so many images")
    for column in ("", *(f"{images:,}" for images in points)):
        curves.add_column(column, justify="right" if column else "left")
    for name, found in methods.items():
        curves.add_row(name, *(f"{p['knn']:.3f} / {p['linear']:.3f}" for p in found["curve"]))
    console.print(curves)
    quickest = min(found["curve"][-1]["train_s"] for found in methods.values())
    costs = Table(title="what it costs")
    for column in ("", "train s", f"k-NN in {quickest:.0f} s", "images/s", "peak MB",
                   "floats stored", "2nd network", "negatives"):  # fmt: skip
        costs.add_column(column, justify="right" if column else "left")
    for name, found in methods.items():
        costs.add_row(
            name, f"{found['curve'][-1]['train_s']:.1f}",
            f"{in_time(found['curve'], quickest, 'knn'):.3f}", f"{found['images_per_s']:,.0f}",
            f"{found['peak_memory_mb']:,}", f"{found['stored_floats']:,}",
            f"{found['momentum_floats']:,}", f"{found['negatives_per_view']:,}",
        )  # fmt: skip
    console.print(costs)
    console.print(
        "floats stored: negatives or queue kept from earlier images; 2nd network: its slowly "
        "moving copy; negatives: each view is compared with so many",
        highlight=False,
    )


def in_own_process(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`measure` of one method where nothing else was done before: memory is a process's."""
    out = folder / "method.json"
    told = {**vars(options), "only": name, "out": str(out)}
    command = [sys.executable, str(Path(__file__).resolve()), "--told", json.dumps(told)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise OnlineSwavError(f"{name} failed (exit code {done.returncode}); see above")
    return json.loads(out.read_text())  # type: ignore[no-any-return]


def toy_shards(folder: Path) -> tuple[list[str], list[str]]:
    """Synthetic pictures of twelve classes."""
    for index in range(4):
        side = "train" if index < 3 else "test"
        write_synthetic_shard(folder / f"{side}-{index}.tar", num_samples=64, seed=0,
                              shard_index=index, size=48)  # fmt: skip
    return [str(folder / "train-*.tar")], [str(folder / "test-*.tar")]


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true",
                        help="synthetic pictures, tiny numbers: does it run?")  # fmt: skip
    parser.add_argument("--images", nargs="+", metavar="GLOB", help="labelled shards to train on")
    parser.add_argument("--test", nargs="+", metavar="GLOB", help="labelled shards, held out")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS),
                        metavar="NAME", help="of: " + "; ".join(METHODS))  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"),
                        default="cuda" if torch.cuda.is_available() else "cpu")  # fmt: skip
    parser.add_argument("--preset", help="our recipe (default: imagenette on a GPU, else "
                        "imagenette-cpu)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, help="default: the preset's")
    parser.add_argument("--images-seen", type=int, help="by each method (default: 19200)")
    parser.add_argument("--points", type=int, help="how often each is judged (default: 4)")
    parser.add_argument("--queue", type=int, default=0, help="embeddings per view that our SwAV "
                        "keeps (default: none)")  # fmt: skip
    parser.add_argument("--bank", type=int, help=f"negatives that MoCo keeps (default: {BANK})")
    parser.add_argument("--probe-limit", type=int, help="labelled images of each side")
    parser.add_argument("--probe-epochs", type=int, help="of the linear probe (default: 30)")
    parser.add_argument("--readers", type=int, default=1, help="one is a thread, more processes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args(arguments)
    if not options.toy and not (options.images and options.test):
        parser.error("--images GLOB and --test GLOB are needed, or --toy")
    on_cpu = options.toy or options.device == "cpu"
    options.preset = options.preset or ("imagenette-cpu" if on_cpu else "imagenette")
    toy = {"batch_size": 16, "images_seen": 128, "points": 2, "bank": 64, "probe_epochs": 5}
    real = {"images_seen": 19200, "points": 4, "bank": BANK, "probe_epochs": 30}
    for name, value in (toy if options.toy else real).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        chosen = preset(options.preset)
    except OnlineSwavError as error:
        parser.error(str(error))
    options.batch_size = options.batch_size or chosen.ingest.batch_size
    if options.probe_limit is None:
        options.probe_limit = chosen.probe.limit
    if min(options.batch_size, options.points, options.bank, options.readers, options.threads) < 1:
        parser.error("--batch-size, --points, --bank, --readers and --threads must be at least 1")
    if options.images_seen < options.batch_size * options.points:
        parser.error("--images-seen must be at least --batch-size times --points")
    return options


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every method, one after the other.

    Raises:
        OnlineSwavError: If one failed; it has said why.
    """
    missing = importlib.util.find_spec("lightly") is None
    methods: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="peers-learning-") as name:
        if options.toy:
            options.images, options.test = toy_shards(Path(name))
        for method in options.methods:
            if missing and "lightly" in method:
                print(f"{method}: left out, lightly is not installed", file=sys.stderr)
                continue
            print(f"{method}:", file=sys.stderr, flush=True)
            methods[method] = in_own_process(method, options, Path(name))
    config = recipe(options)
    return {
        "machine": machine("torch", "torchvision", "lightly"),
        "setting": {
            "preset": options.preset, "toy": options.toy, "device": options.device,
            "backbone": config.learner.model.backbone, "batch_size": options.batch_size,
            "images_seen": options.images_seen, "seed": options.seed, "threads": options.threads,
            "readers": options.readers, "prototypes": config.learner.model.num_prototypes,
            "queue": options.queue, "bank": options.bank, "autocast": config.learner.autocast,
            "knn_k": K, "probe_limit": options.probe_limit, "probe_epochs": options.probe_epochs,
        },
        "methods": methods,
    }  # fmt: skip


def main() -> int:
    """Parse, train, print, write."""
    if sys.argv[1:2] == ["--told"]:  # one method, see `in_own_process`
        options = argparse.Namespace(**json.loads(sys.argv[2]))
        try:
            Path(options.out).write_text(json.dumps(measure(options)))
        except (OnlineSwavError, StreamError, ValueError) as error:
            print(f"peers_learning.py: {error}", file=sys.stderr)
            return 2
        return 0
    options = options_of()
    out, options.out = options.out, None
    try:
        result = compare(options)
    except OnlineSwavError as error:
        print(f"peers_learning.py: {error}", file=sys.stderr)
        return 2
    if not result["methods"]:
        print("peers_learning.py: pip install 'online-swav[bench]' for lightly", file=sys.stderr)
        return 2
    print_result(result, Console(width=110))
    write_json(out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
