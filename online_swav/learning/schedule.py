"""Values over steps. A stream has no epochs, and by default no horizon."""

from __future__ import annotations

import math

from online_swav.learning.config import RampConfig, ScheduleConfig


def ramp(step: int, config: RampConfig) -> float:
    """Linear from `start` at step 0 to `end` at step `steps`, constant afterwards."""
    if step >= config.steps:
        return config.end
    return config.start + (config.end - config.start) * step / config.steps


def learning_rate(step: int, *, peak_lr: float, config: ScheduleConfig) -> float:
    """The rate of the update that completes step `step + 1`.

    Linear warm-up from `warmup_lr` to `peak_lr`, then constant; with a `total_steps` it falls to
    `final_lr` there, over the last `decay_steps`, and stays: as a half cosine (the official
    recipes), or, to cool down after a constant rate, linearly or as 1 - sqrt.
    """
    if step < config.warmup_steps:
        return config.warmup_lr + (peak_lr - config.warmup_lr) * step / config.warmup_steps
    if config.total_steps is None:
        return peak_lr
    length = config.decay_steps or config.total_steps - config.warmup_steps
    progress = min(max((step - (config.total_steps - length)) / length, 0.0), 1.0)
    return config.final_lr + (peak_lr - config.final_lr) * _left(progress, config)


def _left(progress: float, config: ScheduleConfig) -> float:
    """The share of the fall that is still ahead, 1 to 0."""
    if config.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - (progress if config.kind == "linear" else math.sqrt(progress))
