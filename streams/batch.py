"""A batch: crops of many images, where each image came from, and how its reader fared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.config import CropFamily
from streams.shard import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B images as crops.

    The crops are read-only after a journey between processes: they are views of shared memory.
    A rank may train on a part of a batch (`select`) when the ledger refuses some of its images.
    """

    crops: tuple[npt.NDArray[np.uint8], ...]
    """One uint8 array `[V_r, B, S_r, S_r, 3]` per crop family. Arrays, not tensors: a process that
    reads needs no torch, which is half a gigabyte."""
    origins: tuple[Origin, ...]
    """B origins, in the order of the images."""
    arrived_at: tuple[float, ...]
    """B discovery times of the images' shards, unix seconds."""
    decode_s: tuple[float, ...] = ()
    """B seconds that decoding and cropping took; empty when unknown."""
    near_duplicates: tuple[bool, ...] = ()
    """B flags: the same reader saw nearly the same image lately. False for images of a later pass,
    which are known to be seen before; empty when unknown."""

    def __post_init__(self) -> None:
        for family in self.crops:
            if family.dtype != np.uint8 or family.ndim != 5 or family.shape[4] != 3:
                raise ValueError(
                    f"crops must be uint8 [V, B, S, S, 3], got {family.dtype} {list(family.shape)}"
                )
            if family.shape[1] != len(self.origins):
                raise ValueError(
                    f"{family.shape[1]} images in a crop family, but {len(self.origins)} origins"
                )
        if len(self.arrived_at) != len(self.origins):
            raise ValueError(f"{len(self.arrived_at)} arrival times, {len(self.origins)} origins")
        for name in ("decode_s", "near_duplicates"):
            known = len(getattr(self, name))
            if known not in (0, len(self.origins)):
                raise ValueError(f"{known} {name}, {len(self.origins)} origins")

    def __len__(self) -> int:
        """Number of images B."""
        return len(self.origins)

    @property
    def num_bytes(self) -> int:
        """Bytes of the crops."""
        return sum(family.nbytes for family in self.crops)

    @staticmethod
    def of(
        crops: Sequence[npt.NDArray[np.uint8]],
        origins: tuple[Origin, ...],
        arrived_at: tuple[float, ...],
        *,
        decode_s: tuple[float, ...] = (),
        near_duplicates: tuple[bool, ...] = (),
    ) -> Batch:
        """B images out of memory for at least as many, uint8 `[V_r, N, S_r, S_r, 3]` per family.

        A full batch (B = N) shares that memory.
        """
        cut = tuple(np.ascontiguousarray(family[:, : len(origins)]) for family in crops)
        return Batch(
            crops=cut, origins=origins, arrived_at=arrived_at,
            decode_s=decode_s, near_duplicates=near_duplicates,
        )  # fmt: skip

    @staticmethod
    def empty(families: Sequence[CropFamily]) -> Batch:
        """No images, in arrays of the families' shapes."""
        crops = (np.empty((f.num, 0, f.size, f.size, 3), dtype=np.uint8) for f in families)
        return Batch(crops=tuple(crops), origins=(), arrived_at=())

    def select(self, keep: list[int]) -> Batch:
        """The batch with only the images at positions `keep`."""
        if len(keep) == len(self):
            return self
        return Batch(
            crops=tuple(family[:, keep] for family in self.crops),
            origins=tuple(self.origins[i] for i in keep),
            arrived_at=tuple(self.arrived_at[i] for i in keep),
            decode_s=tuple(self.decode_s[i] for i in keep if self.decode_s),
            near_duplicates=tuple(self.near_duplicates[i] for i in keep if self.near_duplicates),
        )
