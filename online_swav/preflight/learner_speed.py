"""How fast is a learner here? A few real steps on random crops of the run's shape. For `doctor`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from online_swav.assemble import choose_device, compiles, learner_threads
from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.learning.learner import Learner, NonFiniteLossError
from online_swav.preflight.check import Check, count, ok, refusal, warning
from online_swav.preflight.throughput import short

_SMALL_BATCH = 8
_LONGEST_STEP_S = 4.0
"""Of a CPU: where a whole batch takes longer, a part of it is timed, which bounds memory too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpeed:
    """What one rank does when it never waits."""

    images_per_s: float
    threads: int | None
    """CPU threads it took; None on a GPU."""


def time_learner(config: RunConfig) -> tuple[Check, LearnerSpeed | None]:
    """Build the learner and time a few of its steps; the first one is not counted."""
    try:
        device = choose_device(config)
        threads = learner_threads(config, ranks=config.learners)
        torch.set_num_threads(threads)
        learner = Learner(config.learner, device=device, seed=config.seed)
        images, step_s = _time_steps(config, learner)
    except (ConfigError, ValueError) as error:
        return refusal("learner_speed", str(error), final=True), None
    except torch.OutOfMemoryError as error:
        return refusal(
            "learner_speed",
            f"a batch of {config.ingest.batch_size} does not fit this GPU "
            f"({str(error).splitlines()[0]}). Lower --ingest.batch-size, or use smaller `crops` "
            "or --learner.autocast bf16.",
            final=True,
        ), None
    except NonFiniteLossError as error:
        text = f"on random crops the loss is not finite at once: {error}"
        return warning("learner_speed", text), None
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else count(threads, "CPU thread")
    text = (
        f"a learner trains {short(images / step_s)} images/s on {where} "
        f"({short(step_s)} s per step of {images} images)"
    )
    if images != config.ingest.batch_size:
        text += f"; a batch of {config.ingest.batch_size} takes too long to try"
    if compiles(config, device):
        text += "; the run compiles it first, which makes it faster"
    speed = LearnerSpeed(images_per_s=images / step_s, threads=None if on_gpu else threads)
    return ok("learner_speed", text), speed


def _time_steps(config: RunConfig, learner: Learner) -> tuple[int, float]:
    """Images in the timed steps, and the seconds of one: the first of a size is not counted.

    On a CPU the batch is doubled as long as a step stays short, since a small one costs more per
    image.
    """
    batch = config.ingest.batch_size
    images = batch if learner.device.type == "cuda" else min(batch, _SMALL_BATCH)
    while True:
        _step(config, learner, images)
        step_s = _step(config, learner, images)
        if images == batch or 2 * step_s > _LONGEST_STEP_S:
            break
        images = min(2 * images, batch)
    if step_s <= _LONGEST_STEP_S:
        step_s = min(step_s, _step(config, learner, images))  # others may have used the cores
    return images, step_s


def _step(config: RunConfig, learner: Learner, images: int) -> float:
    """Seconds of one step on `images` random images."""
    crops = [
        torch.randint(256, (family.num, images, 3, family.size, family.size), dtype=torch.uint8)
        for family in config.crops
    ]
    begun = time.perf_counter()
    learner.step(crops, images=images)
    if learner.device.type == "cuda":
        torch.cuda.synchronize(learner.device)
    return time.perf_counter() - begun
