"""All of torch.distributed: which rank we are, sums over ranks, DDP and SyncBN around a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from online_swav.learning.ranks import SINGLE_RANK, Ranks
from online_swav.sync_batch_norm import convert_sync_batch_norm


class ProcessGroupRanks:
    """The default process group as `Ranks`, with a gloo group beside it for votes on the host."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._host_group: Any = dist.new_group(backend="gloo")

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""
        total = tensor.clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total

    def max(self, tensor: Tensor) -> Tensor:
        """Largest value over ranks."""
        largest = tensor.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Concatenation over ranks along `dim`, whose size may differ from rank to rank."""
        # On the host, so that nobody waits for the device.
        length = torch.tensor([tensor.shape[dim]])
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length, group=self._host_group)
        sizes = [int(size) for size in lengths]
        moved = tensor.movedim(dim, 0).contiguous()
        padded = moved.new_zeros((max(sizes), *moved.shape[1:]))
        padded[: moved.shape[0]] = moved
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return joined.movedim(0, dim)

    def vote(self, numbers: Sequence[int]) -> list[int]:
        """Sum of each number over ranks. On the host: no device is waited for."""
        counts = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(counts, group=self._host_group)
        return [int(count) for count in counts]


def current_ranks() -> Ranks:
    """The process group when there is one of several ranks, else a single rank."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return ProcessGroupRanks()
    return SINGLE_RANK


def vote(ranks: Ranks, numbers: Sequence[int]) -> list[int]:
    """Sum of each number over ranks: of flags, how many say yes. Every rank must call it."""
    if isinstance(ranks, ProcessGroupRanks):
        return ranks.vote(numbers)
    return [int(number) for number in numbers]


def wrapper(
    ranks: Ranks, *, device: torch.device, sync_batch_norm: bool
) -> Callable[[nn.Module], nn.Module]:
    """What the learner puts around its model: nothing on one rank, else SyncBN and DDP."""

    def wrap(model: nn.Module) -> nn.Module:
        if ranks.size == 1:
            return model
        if sync_batch_norm:
            model = convert_sync_batch_norm(model, device)
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=ids, forward_sync_buffers=False, find_unused_parameters=False
        )

    return wrap
