"""Where bfloat16 on a CPU is not to be trusted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def refuse_unset_gradients(network: nn.Module) -> None:
    """Let strided convolutions refuse one-pixel maps under bfloat16 autocast on a CPU.

    Tried with torch 2.14.1 (oneDNN 3.12) on a CPU with AVX512-BF16: for a kernel wider than 1, a
    stride above 1 and an input of 1x1, the bfloat16 weight gradient of the taps that only ever see
    padding is left unset, whatever was in that memory before: mostly zeros, now and then 1e24 or
    NaN. float32 is right, and so are larger maps.

    The hooks raise ValueError, from the forward pass.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and max(module.kernel_size) > 1:
            module.register_forward_pre_hook(_Refusal(name))


class _Refusal:
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        images: Tensor = args[0]
        if (
            images.device.type == "cpu"
            and images.shape[-2:] == (1, 1)
            and torch.is_autocast_enabled("cpu")
            and torch.is_grad_enabled()
        ):
            raise ValueError(
                f"a crop has shrunk to one pixel before {self._name}: there bfloat16 on a CPU "
                "gives wrong gradients. Set --learner.autocast off, or use larger crops, or "
                "--learner.model.small-stem."
            )
