"""Updates that the device alone knows to be bad."""

import math

import pytest
import torch
from torch import nn

from online_swav.learning.config import OptimConfig
from online_swav.learning.nonfinite import NonFiniteLossError, NonFiniteSteps, Snapshot
from online_swav.learning.optim import build_optimizer, load_moments

YES, NO = torch.tensor(True), torch.tensor(False)


def make(kind, momentum=0.9):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    return net, build_optimizer(net, OptimConfig(kind=kind, lr=0.1, momentum=momentum))


def give_gradients(net, value=None):
    for p in net.parameters():
        p.grad = torch.randn(p.shape) if value is None else torch.full(p.shape, value)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("bad_step", [0, 1, 3])
def test_a_step_with_found_inf_leaves_weights_and_moments_as_without_it(kind, momentum, bad_step):
    one, with_bad = make(kind, momentum)
    two, without = make(kind, momentum)
    for step in range(5):
        if step == bad_step:
            give_gradients(one, math.nan)
            with_bad.found_inf = torch.ones(())
            with_bad.step()
        torch.manual_seed(step)
        give_gradients(one)
        torch.manual_seed(step)
        give_gradients(two)
        for optimizer in (with_bad, without):
            optimizer.found_inf = torch.zeros(())
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
        for name, moment in with_bad.state[a].items():
            assert torch.equal(moment, without.state[b][name]), name


@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
def test_moments_of_another_memory_layout_go_to_the_right_elements(kind):
    def convolution(layout):
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        return net, build_optimizer(net, OptimConfig(kind=kind, lr=0.1))

    def two_steps(net, optimizer, seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            for p in net.parameters():
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape))
            optimizer.step()

    one, first = convolution(torch.channels_last)
    two_steps(one, first, [1, 2])
    other, second = convolution(torch.contiguous_format)
    other.load_state_dict(one.state_dict())
    load_moments(second, first.state_dict()["state"])
    two_steps(one, first, [3, 4])
    two_steps(other, second, [3, 4])
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_momentum_may_be_switched_on_at_a_resume():
    _, without = make("sgd", momentum=0.0)
    net, with_momentum = make("sgd", momentum=0.9)
    load_moments(with_momentum, without.state_dict()["state"])
    give_gradients(net)
    net[0].weight.grad = None  # frozen at first
    with_momentum.step()
    give_gradients(net)
    with_momentum.step()
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_snapshot_is_put_back_bit_by_bit_or_not_at_all(dtype):
    tensors = [torch.tensor([0, 1, 5]).to(dtype), torch.tensor(3).to(dtype)]
    before = [t.clone() for t in tensors]
    snapshot = Snapshot(tensors)
    for t in tensors:
        t.fill_(math.nan if dtype.is_floating_point else 0)
    changed = [t.clone() for t in tensors]
    snapshot.restore(where=NO)
    for t, expected in zip(tensors, changed, strict=True):
        torch.testing.assert_close(t, expected, equal_nan=True, atol=0, rtol=0)
    snapshot.restore(where=YES)
    for t, expected in zip(tensors, before, strict=True):
        assert torch.equal(t, expected)


def test_skipped_steps_are_counted_and_too_many_in_a_row_raise():
    steps = NonFiniteSteps(3)
    for step, skipped in enumerate([NO, YES, YES, NO, YES]):
        steps.record(step, skipped)
    assert (steps.total, steps.in_a_row, steps.steps[-1]) == (3, 1, 4)
    assert steps.recent(1000) == 3
    assert steps.recent(1003) == 1
    assert steps.recent(2000) == 0
    steps.record(5, YES)
    with pytest.raises(NonFiniteLossError, match=r"in steps 5 to 7\. .*--learner\.optim\.lr"):
        steps.record(6, YES)
