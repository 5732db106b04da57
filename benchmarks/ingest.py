"""Ingest on one core: from tars to uint8 crops, beside what users would otherwise run.

    taskset -c 0 python benchmarks/ingest.py 'imagenet-sample/*.tar' --official path/to/swav \
        --out benchmarks/results/ingest.json

Contenders take turns, every turn two passes over all images of which the second counts, so that a
busy machine hits all alike; a ratio is the median over repetitions of the ratio within one. Peers
are loaded where they are: the official SwAV repository from a path, lightly if it is installed
(extra `bench`). They also change colours and normalise, on this core; here that is done on the
learner's device.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from ingest_reader import FAMILIES, find, ours, several
from measuring import by_turns, machine, ratio, spread, write_json
from PIL import Image
from rich.console import Console
from rich.table import Table

from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import SampleError
from streams.multicrop import draw_boxes, largest_reduction, multicrop, sample_generator
from streams.reader import RawSample, ShardReader
from streams.shard import SampleId, Shard

REDUCE = partial(largest_reduction, families=FAMILIES)


@dataclass(frozen=True)
class Sample:
    """The images of the measurement."""

    shards: list[Shard]
    images: list[bytes]
    """Those that can be used, encoded."""


def load(pattern: str) -> Sample:
    """Every image of the tars."""
    shards = find(pattern)
    images = []
    for shard in shards:
        for sample in ShardReader(shard, limits=LimitsConfig()):
            if isinstance(sample, RawSample):
                try:
                    decode_image(sample.image, LimitsConfig())
                except SampleError as error:
                    print(f"left out: {sample.key}: {error}", file=sys.stderr)
                else:
                    images.append(sample.image)
    return Sample(shards, images)


# -- contenders: each goes through all images once -------------------------------------------------


def rate(run: Callable[[], tuple[int, float]]) -> float:
    """Images per second of a contender's second pass: the first finds the caches of another one."""
    run()
    images, took = run()
    return images / took


def each(images: Sequence[bytes], call: Callable[[bytes], object]) -> tuple[int, float]:
    """Images and seconds of a call per encoded image."""
    begun = time.perf_counter()
    for data in images:
        call(data)
    return len(images), time.perf_counter() - begun


def crops_alone(images: Sequence[bytes]) -> tuple[int, float]:
    """Images and seconds of cropping what is decoded already."""
    decoded = [decode_image(data, LimitsConfig()) for data in images]
    out = [np.empty((f.num, f.size, f.size, 3), dtype=np.uint8) for f in FAMILIES]
    begun = time.perf_counter()
    for number, image in enumerate(decoded):
        multicrop(image, FAMILIES, sample_generator(0, SampleId("benchmark", number), 0), out)
    return len(decoded), time.perf_counter() - begun


def with_pillow(data: bytes) -> object:
    """Decode to an array."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_simplejpeg(data: bytes) -> object:
    """Decode to an array; what it does not read (CMYK) goes to Pillow."""
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return with_pillow(data)


def with_opencv(data: bytes) -> object:
    """Decode to an array."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def official(repository: Path, images: Sequence[bytes], folder: Path) -> Callable[[], Any]:
    """The official repository's dataset over a folder with these images."""
    path = repository / "src" / "multicropdataset.py"
    spec = importlib.util.spec_from_file_location("official_multicrop", path)
    if spec is None or spec.loader is None or not path.exists():
        sys.exit(f"--official: {path} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (folder / "images" / "all").mkdir(parents=True)
    for number, data in enumerate(images):
        (folder / "images" / "all" / f"{number:06d}.jpg").write_bytes(data)
    dataset = module.MultiCropDataset(
        str(folder / "images"), [f.size for f in FAMILIES], [f.num for f in FAMILIES],
        [f.scale[0] for f in FAMILIES], [f.scale[1] for f in FAMILIES],
    )  # fmt: skip

    def run() -> tuple[int, float]:
        begun = time.perf_counter()
        for index in range(len(dataset)):
            dataset[index]
        return len(dataset), time.perf_counter() - begun

    return run


def lightly(images: Sequence[bytes]) -> Callable[[], Any] | None:
    """The transform of lightly, if it is installed."""
    try:
        from lightly.transforms import SwaVTransform
    except ImportError:
        return None
    transform = SwaVTransform(
        crop_sizes=tuple(f.size for f in FAMILIES), crop_counts=tuple(f.num for f in FAMILIES),
        crop_min_scales=tuple(f.scale[0] for f in FAMILIES),
        crop_max_scales=tuple(f.scale[1] for f in FAMILIES),
    )  # fmt: skip
    return lambda: each(images, lambda d: transform(Image.open(io.BytesIO(d)).convert("RGB")))


# -- fidelity --------------------------------------------------------------------------------------


def fidelity(images: Sequence[bytes]) -> dict[str, float]:
    """Mean absolute difference of our crops, in levels of 255, to Pillow's filter on its decode."""
    differences, shrinks = [], []
    for number, data in enumerate(images):
        identity = SampleId("benchmark", number)
        out = [np.empty((f.num, f.size, f.size, 3), dtype=np.uint8) for f in FAMILIES]
        image = decode_image(data, LimitsConfig(), reduce=REDUCE)
        multicrop(image, FAMILIES, sample_generator(0, identity, 0), out)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        by = REDUCE(picture.height, picture.width)
        if (-(-picture.height // by), -(-picture.width // by)) != image.shape[:2]:
            continue  # turned by EXIF
        rng = sample_generator(0, identity, 0)
        for family, views in zip(FAMILIES, out, strict=True):
            boxes = draw_boxes(rng, *image.shape[:2], num=family.num, scale=family.scale)
            for view, (top, left, h, w) in zip(views, boxes, strict=True):
                region = picture.crop((by * left, by * top, min(by * (left + w), picture.width),
                                       min(by * (top + h), picture.height)))  # fmt: skip
                side = (family.size, family.size)
                expected = np.asarray(region.resize(side, Image.Resampling.BILINEAR)).astype(int)
                if rng.random() < 0.5:
                    expected = expected[:, ::-1]
                differences.append(np.abs(view - expected).mean())
                shrinks.append((region.height * region.width) ** 0.5 / family.size)
    return {
        "crops": len(differences), "mean": round(float(np.mean(differences)), 3),
        "p95": round(float(np.percentile(differences, 95)), 3),
        "max": round(float(np.max(differences)), 3),
        "shrink_median": round(float(np.median(shrinks)), 2),
        "shrink_p90": round(float(np.percentile(shrinks, 90)), 2),
    }  # fmt: skip


# -- the whole -------------------------------------------------------------------------------------


def seed(repetition: int) -> None:
    """The peers draw from the global generators."""
    random.seed(repetition)
    np.random.seed(repetition)  # noqa: NPY002
    torch.manual_seed(repetition)


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tars", help="folder or glob of tars")
    parser.add_argument("--official", type=Path, help="checkout of facebookresearch/swav")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--growth", type=int, default=0, help="images over which memory is watched")
    parser.add_argument("--several", action="store_true", help="two readers on two cores as well")
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sample = load(options.tars)
    result: dict[str, Any] = {
        "machine": machine("torch", "torchvision", "pillow", "simplejpeg",
                           "opencv-python-headless", "lightly"),
        "sample": Path(options.tars).parent.name, "images": len(sample.images),
        "mean_bytes": round(statistics.mean(map(len, sample.images))),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ingest-benchmark-") as name:
        folder = Path(name)
        contenders: dict[str, Callable[[], Any]] = {
            "ours: tar to crops": lambda: ours(sample.shards, folder)
        }
        if options.official is not None:
            contenders["official pipeline"] = official(options.official, sample.images, folder)
        peer = lightly(sample.images)
        if peer is not None:
            contenders["lightly's transform"] = peer
        limits = LimitsConfig()
        contenders |= {
            "decode only: ours": lambda: each(sample.images, lambda d: decode_image(d, limits)),
            "decode only: simplejpeg": lambda: each(sample.images, with_simplejpeg),
            "decode only: OpenCV": lambda: each(sample.images, with_opencv),
            "decode only: Pillow": lambda: each(sample.images, with_pillow),
            "crops only: ours": lambda: crops_alone(sample.images),
        }
        rates = by_turns(
            {name: partial(rate, run) for name, run in contenders.items()},
            options.repetitions, before=seed,
        )  # fmt: skip
        result["images_per_s"] = {name: spread(values) for name, values in rates.items()}
        first = rates["ours: tar to crops"]
        result["ours_by"] = {name: ratio(first, values) for name, values in rates.items()}
        result["fidelity"] = fidelity(sample.images)
        if options.growth:
            script = Path(__file__).with_name("ingest_reader.py")
            command = [sys.executable, str(script), options.tars, str(options.growth)]
            result["memory"] = json.loads(subprocess.check_output(command))
        if options.several:
            result["readers"] = several(sample.shards, folder, rounds=3)
    table = Table(title=f"{result['sample']}: {len(sample.images)} images, 2 x 224 + 6 x 96 px")
    table.add_column("")
    table.add_column("images/s (spread)", justify="right")
    table.add_column("ours is faster by", justify="right")
    for name, rates_of in result["images_per_s"].items():
        low, high = rates_of["min"], rates_of["max"]
        table.add_row(name, f"{rates_of['median']:.0f} ({low:.0f} to {high:.0f})",
                      f"{result['ours_by'][name]:.2f}")  # fmt: skip
    console = Console(width=100)
    console.print(table)
    for name in ("fidelity", "memory", "readers"):
        if name in result:
            console.print(f"{name}: {result[name]}", highlight=False)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
