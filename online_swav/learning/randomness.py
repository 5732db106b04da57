"""Random numbers of a step, derived instead of stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def step_generator(
    *, seed: int, step: int, rank: int, device: torch.device
) -> Iterator[torch.Generator]:
    """A generator seeded by seed, step and rank, on the host so that every device augments alike.

    Torch's own generators of the host and of the device are seeded too, for stochastic layers, and
    put back at the end.

    Raises:
        ValueError: If seed, step or rank is negative.
    """
    sequence = np.random.SeedSequence([seed, step, rank])
    for_augment, for_layers = (int(word) for word in sequence.generate_state(2, np.uint64))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(for_layers)
        yield torch.Generator().manual_seed(for_augment)
