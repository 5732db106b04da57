"""What the math asks of several learner ranks. `online_swav.parallel` answers it; tests fake it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable  # the tests check argument types at run time
class Ranks(Protocol):
    """Collectives over learner ranks; every rank must make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""

    def max(self, tensor: Tensor) -> Tensor:
        """Largest value over ranks."""

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Concatenation over ranks along `dim`, whose size may differ from rank to rank."""


class SingleRank:
    """One process: every collective is the identity."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gather(self, tensor: Tensor, dim: int) -> Tensor:  # noqa: ARG002 - a Ranks has it
        """The tensor itself."""
        return tensor


SINGLE_RANK: Ranks = SingleRank()
