"""Optimizers: LARS (You et al. 2017, arXiv 1708.03888) and torch's own, with parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from online_swav.learning.config import OptimConfig


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose rate adapts to each tensor's ratio of weight to gradient norm.

    As the official recipe (LARC without clipping inside SGD): the decayed gradient
    g + wd * w is scaled by trust * |w| / (|g| + wd * |w|), then takes part in momentum. A tensor
    whose weight or gradient is all zero moves by the plain gradient, so that it can leave zero.

    Groups with `adapt=False` are plain SGD. Parameters without a gradient are skipped and keep
    their momentum.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient, "adapt": True,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
            decay = group["weight_decay"]
            if group["adapt"]:
                norms = zip(torch._foreach_norm(params), torch._foreach_norm(grads), strict=True)
                scales = [_scales(w, g, decay, group["trust_coefficient"]) for w, g in norms]
                updates = torch._foreach_mul(grads, [scale[0] for scale in scales])
                torch._foreach_add_(updates, torch._foreach_mul(params, [s[1] for s in scales]))
            else:
                updates = torch._foreach_add(grads, params, alpha=decay)
            buffers = []
            for p in params:
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(state["momentum_buffer"])
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])
        return loss


def _scales(
    weight_norm: Tensor, grad_norm: Tensor, decay: float, trust: float
) -> tuple[Tensor, Tensor]:
    """Factors of gradient and weight in the update, as 0-d tensors: no wait for the device."""
    local = trust * weight_norm / (grad_norm + decay * weight_norm + 1e-8)
    adapts = (weight_norm > 0) & (grad_norm > 0)
    return torch.where(adapts, local, 1.0), torch.where(adapts, decay * local, 0.0)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The configured optimizer with two groups: kernels and matrices, and 1-d parameters.

    1-d parameters (biases, batch norm) get neither decay nor trust scaling, unless `decay_all`.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in params if p.ndim > 1]}]
    flat: dict[str, Any] = {"params": [p for p in params if p.ndim <= 1]}
    if not config.decay_all:
        flat["weight_decay"] = 0.0
        if config.kind == "lars":
            flat["adapt"] = False
    groups.append(flat)
    if config.kind == "lars":
        return LARS(groups, lr=config.lr, momentum=config.momentum,
                    weight_decay=config.weight_decay,
                    trust_coefficient=config.trust_coefficient)  # fmt: skip
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum,
                               weight_decay=config.weight_decay)  # fmt: skip
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas,
                             weight_decay=config.weight_decay)  # fmt: skip
