"""What becomes of time and memory when a run, a folder, K or the queue grows (`end_to_end.py`).

Every size has a process of its own, and the sizes take turns. Nothing here uses Ray. Pictures are
tiny: they are the same at every size, and what grows shall show beside them.
"""

from __future__ import annotations

import io
import itertools
import math
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from measuring import seconds, spread

from online_swav.config import CheckpointConfig, RunConfig
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.learning.config import LearnerConfig, ModelConfig, OptimConfig, QueueConfig
from online_swav.learning.learner import Learner
from streams.config import CropFamily, IngestConfig, SourceConfig
from streams.ingest import Ingest
from streams.ledger import Ledger
from streams.quarantine import Quarantine
from streams.sources import DirectorySource
from streams.testing import jpeg_bytes

BATCH = 64
CROPS = (CropFamily(size=32, num=2, scale=(0.3, 1.0)),
         CropFamily(size=16, num=2, scale=(0.1, 0.3)))  # fmt: skip
LINEAR = 1.1
"""Exponents above are worse than linear."""
IMAGES_PER_SHARD = 100
IMAGES_READ = 512
"""Of a folder with many shards."""


@dataclass(frozen=True)
class Study:
    """Something that grows.

    Args:
        what: Its name.
        sizes: Increasing.
        measure: Costs by name at a size, in a folder of its own: seconds or milliseconds. It runs
            in the size's process, time and again.
        extent: What the cost is held against, from the size.
    """

    what: str
    sizes: Sequence[int]
    measure: Callable[[int, Path], dict[str, float]]
    extent: Callable[[int], int] = int


# -- what is measured ------------------------------------------------------------------------------


def train(images: int, folder: Path) -> dict[str, float]:
    """Seconds of a whole run over a stream of so many images, with a tiny network."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        stream = Path(name) / "stream"
        write_shards(stream, math.ceil(images / IMAGES_PER_SHARD), IMAGES_PER_SHARD)
        desk = RecordingDesk()
        train_in_process(
            RunConfig(
                run=str(Path(name) / "run"), source=(f"stream={stream}",), when_idle="stop",
                device="cpu", crops=CROPS, discovery=SourceConfig(settle_s=0.0),
                ingest=IngestConfig(batch_size=BATCH),
                learner=_learner("shufflenet_v2_x0_5", prototypes=64, queue=0),
                checkpoint=CheckpointConfig(every_steps=100),
            ),
            desk,
        )  # fmt: skip
        took = desk.reports[-1].reported_at - desk.reports[0].reported_at
        return {"run_s": took, "ms_per_image": 1e3 * took / desk.reports[-1].samples_seen}


def read_folder(shards: int, folder: Path) -> dict[str, float]:
    """A folder with so many shards of one image each: listed, entered, read from."""
    stream = folder / "stream"
    if not stream.exists():
        write_shards(stream, shards, 1)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ledger = Ledger(Path(name) / "ledger.sqlite")
        source = DirectorySource("stream", str(stream), settle_s=0.0)
        ingest = Ingest(
            books=ledger, quarantine=Quarantine(Path(name) / "quarantine"), families=CROPS,
            config=IngestConfig(batch_size=BATCH, window=BATCH), worker="benchmark",
            generation=ledger.generation, seed=0,
        )  # fmt: skip
        begun = time.perf_counter()
        found = source.poll()
        listed = time.perf_counter()
        ledger.add(found)
        source.take(found)
        added = time.perf_counter()
        images = len(ingest.next_batch(flush=True) or ())
        first = time.perf_counter()
        more = 0
        while images + more < IMAGES_READ and (batch := ingest.next_batch(flush=True)) is not None:
            more += len(batch)
        read = time.perf_counter()
        relist_s = seconds(source.poll)
        ledger.close()
    return {"list_s": listed - begun, "add_s": added - listed, "relist_s": relist_s,
            "first_batch_s": first - begun,
            "ms_per_image": 1e3 * (read - first) / max(more, 1)}  # fmt: skip


def step(prototypes: int, queue: int) -> dict[str, float]:
    """Milliseconds of a step with this K and this queue, which is full."""
    learner = _started(prototypes, queue)
    rng = torch.Generator().manual_seed(0)
    crops = [torch.randint(0, 256, (f.num, BATCH, 3, f.size, f.size), dtype=torch.uint8,
                           generator=rng) for f in CROPS]  # fmt: skip
    took = 1e3 * seconds(lambda: learner.step(crops))
    return {"step_ms": took, "ms_per_image": took / BATCH}


def step_by_prototypes(prototypes: int, _folder: Path) -> dict[str, float]:
    """See `step`."""
    return step(prototypes, 0)


def step_by_queue(length: int, _folder: Path, *, prototypes: int) -> dict[str, float]:
    """See `step`."""
    return step(prototypes, length)


@cache
def _started(prototypes: int, queue: int) -> Learner:
    learner = Learner(_learner("resnet18", prototypes=prototypes, queue=queue))
    if queue:  # hundreds of steps would fill it as well
        state = learner.state_dict()
        stored = torch.randn_like(state["queue"]["features"])
        state["queue"] |= {"features": torch.nn.functional.normalize(stored, dim=2),
                           "_extra_state": queue}  # fmt: skip
        learner.load_state_dict(state)
    return learner


def _learner(backbone: str, *, prototypes: int, queue: int) -> LearnerConfig:
    return LearnerConfig(
        model=ModelConfig(backbone=backbone, hidden_dim=512, num_prototypes=prototypes),
        queue=QueueConfig(length=queue), optim=OptimConfig(kind="adamw", lr=1e-4),
    )  # fmt: skip


def write_shards(folder: Path, shards: int, images: int) -> None:
    """Tars of the same bytes: a shard is known by its path."""
    folder.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(images):
            data = jpeg_bytes(number)
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        used = tar.offset
    whole = buffer.getvalue()[:used] + bytes(2 * tarfile.BLOCKSIZE)  # not filled up to 10 kB
    for number in range(shards):
        (folder / f"shard-{number:07d}.tar").write_bytes(whole)


# -- sizes by turns --------------------------------------------------------------------------------


def measure_growth(studies: Sequence[Study], folder: Path, repetitions: int) -> dict[str, Any]:
    """All studies, and what in them grows faster than linear."""
    found = {study.what: over_sizes(study, folder, repetitions) for study in studies}
    worse = [
        f"{what}: {name} from {low:,} to {high:,}"
        for what, of in found.items()
        for name, exponents in of["exponents"].items()
        for (low, high), exponent in zip(itertools.pairwise(of["sizes"]), exponents, strict=True)
        if exponent > LINEAR
    ]
    return {"repetitions": repetitions, "batch": BATCH, "studies": found,
            "worse_than_linear": worse}  # fmt: skip


def over_sizes(study: Study, folder: Path, repetitions: int) -> dict[str, Any]:
    """One study."""
    costs: dict[int, dict[str, list[float]]] = {size: {} for size in study.sizes}
    context = get_context("forkserver")
    context.set_forkserver_preload(["online_swav.inprocess"])  # torch is imported once
    with ExitStack() as stack:
        workers, folders = {}, {}
        for size in study.sizes:
            # One thread each: two that share a core with somebody else wait for each other.
            workers[size] = stack.enter_context(
                ProcessPoolExecutor(1, context, torch.set_num_threads, (1,))
            )
            folders[size] = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        for repetition in range(repetitions + 1):
            for size in study.sizes:
                measured = workers[size].submit(study.measure, size, folders[size]).result()
                for name, value in measured.items() if repetition else ():  # the first warms up
                    costs[size].setdefault(name, []).append(value)
        memory = [workers[size].submit(peak_mb).result() for size in study.sizes]
    extents = [study.extent(size) for size in study.sizes]
    medians = {name: [statistics.median(costs[size][name]) for size in study.sizes]
               for name in costs[study.sizes[0]]} | {"memory_mb": memory}  # fmt: skip
    per_image = medians["ms_per_image"]
    return {
        "sizes": list(study.sizes),
        "costs": {name: [spread(costs[size][name], 4) for size in study.sizes]
                  for name in costs[study.sizes[0]]},
        "memory_mb": memory,
        "images_per_s": [round(1e3 / ms, 1) for ms in per_image],
        "exponents": {name: exponents(extents, values) for name, values in medians.items()},
    }  # fmt: skip


def exponents(extents: Sequence[int], values: Sequence[float]) -> list[float]:
    """Between neighbours: 0 does not grow, 1 grows in proportion."""
    return [
        round(math.log(after / before) / math.log(high / low), 2)
        for (low, high), (before, after) in zip(
            itertools.pairwise(extents), itertools.pairwise(values), strict=True
        )
    ]


def peak_mb() -> float:
    """Largest resident megabytes of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(s.split()[1]) for s in lines if s.startswith("VmHWM")) / 1024, 1)


def studies(
    *, images: Sequence[int], shards: Sequence[int], prototypes: Sequence[int],
    queue: Sequence[int], queue_prototypes: int,
) -> list[Study]:  # fmt: skip
    """The four of the benchmark."""
    return [
        Study("images in a run", images, train),
        Study("shards in a folder", shards, read_folder),
        Study("prototypes", prototypes, step_by_prototypes),
        # Codes are computed for the batch and the queue together.
        Study("queue", queue, partial(step_by_queue, prototypes=queue_prototypes),
              extent=lambda length: BATCH + length),
    ]  # fmt: skip
