"""Optimizers: LARS (You et al. 2017, arXiv 1708.03888) and torch's own, with parameter groups."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
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
    their momentum. As torch's fused optimizers, a step does nothing when the attribute `found_inf`
    is a tensor that holds 1.
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
            decay, buffers = group["weight_decay"], _momentum_buffers(self, params)
            if group["adapt"]:
                weight_norms = torch.stack(torch._foreach_norm(params))
                grad_norms = torch.stack(torch._foreach_norm(grads))
                for_grads, for_weights = _scales(
                    weight_norms, grad_norms, decay, group["trust_coefficient"]
                )
                updates = torch._foreach_mul(grads, list(for_grads))
                torch._foreach_add_(updates, torch._foreach_mul(params, list(for_weights)))
            else:
                updates = torch._foreach_add(grads, params, alpha=decay)
            momentum: float | Tensor = group["momentum"]
            rate: float | Tensor = group["lr"]
            found_inf: Tensor | None = getattr(self, "found_inf", None)
            if found_inf is not None:
                # Decided on the device: the update vanishes bit by bit, NaN included.
                go = 1 - found_inf
                torch._foreach_mul_([u.view(torch.int32) for u in updates], go.to(torch.int32))
                momentum, rate = momentum * go + found_inf, rate * go
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, updates)
            torch._foreach_sub_(params, torch._foreach_mul(buffers, rate))
        return loss


def _scales(
    weight_norms: Tensor, grad_norms: Tensor, decay: float, trust: float
) -> tuple[Tensor, Tensor]:
    """Factors of gradients and weights in the updates; no wait for the device."""
    local = trust * weight_norms / (grad_norms + decay * weight_norms + 1e-8)
    adapts = (weight_norms > 0) & (grad_norms > 0)
    return torch.where(adapts, local, 1.0), torch.where(adapts, decay * local, 0.0)


def _momentum_buffers(optimizer: torch.optim.Optimizer, params: Iterable[Tensor]) -> list[Tensor]:
    buffers = []
    for p in params:
        state = optimizer.state[p]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffers.append(state["momentum_buffer"])
    return buffers


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The configured optimizer with two groups: kernels and matrices, and 1-d parameters.

    1-d parameters (biases, batch norm) get neither decay nor trust scaling, unless `decay_all`.
    All kinds skip a step whose `found_inf` (torch's protocol of gradient scaling) holds 1.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in params if p.ndim > 1]}]
    flat: dict[str, Any] = {"params": [p for p in params if p.ndim <= 1]}
    if not config.decay_all:
        flat["weight_decay"] = 0.0
        if config.kind == "lars":
            flat["adapt"] = False
    groups.append(flat)
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas,
                                 weight_decay=config.weight_decay, fused=True)  # fmt: skip
    optimizer: torch.optim.Optimizer
    if config.kind == "lars":
        optimizer = LARS(groups, lr=config.lr, momentum=config.momentum,
                         weight_decay=config.weight_decay,
                         trust_coefficient=config.trust_coefficient)  # fmt: skip
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum,
                                    weight_decay=config.weight_decay, fused=True)  # fmt: skip
    _begin_momentum(optimizer)
    return optimizer


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[int, Any]) -> None:
    """Continue with the `state` of an optimizer's `state_dict`; groups and rates stay as they are.

    Moments are laid out in memory as their parameters: the fused optimizers take that for granted,
    and a checkpoint may be of another `channels_last`.
    """
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": copy.deepcopy(state), "param_groups": groups})
    for p, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == p.shape:
                moments[name] = torch.empty_like(p).copy_(moment)
    _begin_momentum(optimizer)


@torch.no_grad()
def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros, where there is none yet. A first step that found_inf skips would leave them unset."""
    for group in optimizer.param_groups:
        if group.get("momentum"):
            _momentum_buffers(optimizer, group["params"])
