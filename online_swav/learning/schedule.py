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

    Linear warm-up from `warmup_lr` to `peak_lr`, then constant, or a half cosine down to
    `final_lr` at `total_steps` and constant afterwards (the official recipes).
    """
    if step < config.warmup_steps:
        return config.warmup_lr + (peak_lr - config.warmup_lr) * step / config.warmup_steps
    if config.total_steps is None:
        return peak_lr
    length = config.total_steps - config.warmup_steps
    progress = min((step - config.warmup_steps) / length, 1.0)
    return config.final_lr + (peak_lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
