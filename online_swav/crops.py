"""Crops of a batch as tensors: readers know no torch, learners know no NumPy."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import UInt8
from torch import Tensor

from streams.batch import Batch

# torch warns that it cannot mark a tensor read-only; nobody writes to crops. Once for all: filters
# are the process's, and changing them at every step is not safe beside other threads.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def as_tensors(batch: Batch) -> list[UInt8[Tensor, "_ B 3 _ _"]]:
    """A tensor `[v, B, 3, s, s]` per crop family, channels last, in the memory of the batch."""
    return [torch.from_numpy(family).permute(0, 1, 4, 2, 3) for family in batch.crops]
