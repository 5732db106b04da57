"""Batch norm whose statistics are those of all ranks, on devices where torch has none (the CPU)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; so is its gradient, since every rank's loss depends on every rank's input."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


class SyncBatchNormCpu(_BatchNorm):
    """As `nn.SyncBatchNorm`, whose kernels are for accelerators only; state of the same layout.

    Two passes (mean, then squared distances to it), in float32. A rank may bring no images.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [N, C, ...] will do."""

    def forward(self, input: Float[Tensor, "N C *rest"]) -> Float[Tensor, "N C *rest"]:
        """Normalised over all ranks in training mode; by the running statistics otherwise."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        over = [0, *range(2, x.ndim)]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        values = x.new_full((1,), x.numel() / x.shape[1])
        sums = _sum_over_ranks(torch.cat([x.sum(over), values]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _sum_over_ranks(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    total: Tensor = _AllReduceSum.apply(tensor)
    return total


def convert_sync_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with every batch norm replaced by one that sums over the default process group."""
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            synced = SyncBatchNormCpu(child.num_features, eps=child.eps, momentum=child.momentum,
                                      affine=child.affine)  # fmt: skip
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.train(child.training))
        else:
            convert_sync_batch_norm(child, device)
    return module
