"""A batch: crops of many images, and where each image came from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streams.config import CropFamily
from streams.shard import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B images as crops.

    The crops are read-only after a journey between processes: they are views of shared memory.
    A rank may train on a part of a batch (`select`) when the ledger refuses some of its images.
    """

    crops: tuple[Tensor, ...]
    """One uint8 tensor `[V_r, B, 3, S_r, S_r]` per crop family, channels last in memory."""
    origins: tuple[Origin, ...]
    """B origins, in the order of the images."""
    arrived_at: tuple[float, ...]
    """B discovery times of the images' shards, unix seconds."""

    def __post_init__(self) -> None:
        for family in self.crops:
            if family.dtype != torch.uint8 or family.ndim != 5 or family.shape[2] != 3:
                raise ValueError(
                    f"crops must be uint8 [V, B, 3, S, S], got {family.dtype} {list(family.shape)}"
                )
            if family.shape[1] != len(self.origins):
                raise ValueError(
                    f"{family.shape[1]} images in a crop family, but {len(self.origins)} origins"
                )
        if len(self.arrived_at) != len(self.origins):
            raise ValueError(f"{len(self.arrived_at)} arrival times, {len(self.origins)} origins")

    def __len__(self) -> int:
        """Number of images B."""
        return len(self.origins)

    @property
    def num_bytes(self) -> int:
        """Bytes of the crops."""
        return sum(family.numel() for family in self.crops)

    @staticmethod
    def of(
        crops: Sequence[Tensor], origins: tuple[Origin, ...], arrived_at: tuple[float, ...]
    ) -> Batch:
        """B images out of memory for at least as many, uint8 `[V_r, N, S_r, S_r, 3]` per family.

        A full batch (B = N) shares that memory.
        """
        cut = (family[:, : len(origins)].contiguous() for family in crops)
        return Batch(
            crops=tuple(family.permute(0, 1, 4, 2, 3) for family in cut),
            origins=origins,
            arrived_at=arrived_at,
        )

    @staticmethod
    def empty(families: Sequence[CropFamily]) -> Batch:
        """No images, in tensors of the families' shapes."""
        crops = (torch.empty((f.num, 0, 3, f.size, f.size), dtype=torch.uint8) for f in families)
        return Batch(crops=tuple(crops), origins=(), arrived_at=())

    def select(self, keep: list[int]) -> Batch:
        """The batch with only the images at positions `keep`."""
        if len(keep) == len(self):
            return self
        index = torch.tensor(keep, dtype=torch.long)
        return Batch(
            crops=tuple(family.index_select(1, index) for family in self.crops),
            origins=tuple(self.origins[i] for i in keep),
            arrived_at=tuple(self.arrived_at[i] for i in keep),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as NumPy arrays, which Ray and pickle 5 hand over without a copy."""
        arrays = tuple(family.permute(0, 1, 3, 4, 2).contiguous().numpy() for family in self.crops)
        return _from_arrays, (arrays, self.origins, self.arrived_at)


def _from_arrays(
    arrays: tuple[np.ndarray[Any, Any], ...],
    origins: tuple[Origin, ...],
    arrived_at: tuple[float, ...],
) -> Batch:
    with warnings.catch_warnings():
        # torch warns that it cannot mark a tensor read-only; the class says that it is.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        crops = tuple(torch.from_numpy(array).permute(0, 1, 4, 2, 3) for array in arrays)
    return Batch(crops=crops, origins=origins, arrived_at=arrived_at)
