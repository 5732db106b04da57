"""LARS against a float64 loop; groups, freezing, and the other optimizers."""

import numpy as np
import pytest
import torch
from torch import nn

from online_swav.learning.config import OptimConfig
from online_swav.learning.optim import LARS, build_optimizer

LR, MOMENTUM, DECAY, TRUST = 0.5, 0.9, 0.01, 0.001


def reference_step(weight, grad, momentum, *, adapt, decay):
    update = grad + decay * weight
    if adapt:
        weight_norm, grad_norm = np.linalg.norm(weight), np.linalg.norm(grad)
        if weight_norm > 0 and grad_norm > 0:
            update = update * TRUST * weight_norm / (grad_norm + decay * weight_norm)
        else:
            update = grad
    momentum = MOMENTUM * momentum + update
    return weight - LR * momentum, momentum


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4, bias=False))


def config(**over):
    return OptimConfig(
        **{"kind": "lars", "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY,
           "trust_coefficient": TRUST, **over}
    )  # fmt: skip


@pytest.mark.parametrize("decay_all", [False, True])
def test_lars_equals_the_reference_over_several_steps(decay_all):
    model = network()
    optimizer = build_optimizer(model, config(decay_all=decay_all))
    weights = [p.detach().double().numpy() for p in model.parameters()]
    momenta = [np.zeros_like(w) for w in weights]
    rng = np.random.default_rng(0)
    for _ in range(5):
        for i, p in enumerate(model.parameters()):
            grad = rng.normal(size=p.shape)
            p.grad = torch.tensor(grad, dtype=torch.float32)
            flat = p.ndim <= 1 and not decay_all
            weights[i], momenta[i] = reference_step(
                weights[i], grad, momenta[i], adapt=not flat, decay=0.0 if flat else DECAY
            )
        optimizer.step()
    for p, expected in zip(model.parameters(), weights, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_zero_tensor_can_leave_zero():
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([{"params": [weight]}], lr=0.1, momentum=0.0, weight_decay=0.1,
                     trust_coefficient=0.001)  # fmt: skip
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.1))


@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
def test_parameters_without_gradient_stay_and_keep_their_momentum(kind):
    model = network()
    optimizer = build_optimizer(model, config(kind=kind))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    frozen = model[2].weight
    before = frozen.detach().clone()
    state = {k: v.clone() for k, v in optimizer.state[frozen].items()}
    frozen.grad = None
    optimizer.step()
    assert torch.equal(frozen, before)
    assert all(torch.equal(optimizer.state[frozen][name], value) for name, value in state.items())


@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("decay_all", [False, True])
def test_one_dimensional_parameters_are_decayed_on_demand_only(kind, decay_all):
    groups = build_optimizer(network(), config(kind=kind, decay_all=decay_all)).param_groups
    assert [p.ndim for p in groups[0]["params"]] == [2, 2]
    assert [p.ndim for p in groups[1]["params"]] == [1, 1, 1]
    assert groups[0]["weight_decay"] == DECAY
    assert groups[1]["weight_decay"] == (DECAY if decay_all else 0.0)
