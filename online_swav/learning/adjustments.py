"""What a run has changed of its own recipe to get well again. Plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustments:
    """Applied on top of the configured schedules."""

    lr_factor: float = 1.0
    """The rate is multiplied by it."""
    epsilon_factor: float = 1.0
    """So is the epsilon of the codes."""
    frozen_until_step: int = 0
    """The prototypes do not move before this step."""
