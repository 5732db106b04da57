"""One step and its state: resume, skipped steps, freezing, refusals, reports."""

import io
import math

import pytest
import torch

from online_swav.learning.config import (
    CodesConfig,
    HealthConfig,
    ModelConfig,
    OptimConfig,
    QueueConfig,
)
from online_swav.learning.learner import Learner, NonFiniteLossError


def saved(learner):
    """The state as a checkpoint holds it."""
    buffer = io.BytesIO()
    torch.save(learner.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def leaves(state, path="state"):
    if isinstance(state, dict):
        return {k: v for name in state for k, v in leaves(state[name], f"{path}.{name}").items()}
    return {path: state}


def assert_same(one, two):
    one, two = leaves(one), leaves(two)
    assert one.keys() == two.keys()
    for name in one:
        if isinstance(one[name], torch.Tensor):
            assert torch.equal(one[name], two[name]), name
        else:
            assert one[name] == two[name], name


def spoil(learner):
    """Make the next loss NaN: no uint8 image could."""
    with torch.no_grad():
        learner.model.projection_head[3].bias[0] = float("nan")


@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
def test_twenty_steps_are_ten_and_resume_and_ten_bit_for_bit(config, batches, kind):
    settings = config(optim=OptimConfig(kind=kind, lr=0.01))
    feed = batches(20)
    whole = Learner(settings, seed=4)
    for crops in feed:
        expected = whole.step(crops)
    first = Learner(settings, seed=4)
    for crops in feed[:10]:
        first.step(crops)
    second = Learner(settings, seed=4)
    second.load_state_dict(saved(first))
    for crops in feed[10:]:
        report = second.step(crops)
    assert_same(saved(second), saved(whole))
    assert report.to_host() == expected.to_host()
    assert second.queue_fill_ratio == 1.0
    assert second.health_values() == whole.health_values()


def test_stochastic_layers_resume_bit_for_bit_too(config, batches):
    settings = config(model=ModelConfig(
        backbone="efficientnet_b0", hidden_dim=0, embedding_dim=8, num_prototypes=12
    ))  # fmt: skip
    feed = batches(2)
    whole = Learner(settings)
    whole.step(feed[0])
    resumed = Learner(settings, seed=0)
    resumed.load_state_dict(saved(whole))
    torch.rand(7)  # what others draw from torch's own generator makes no difference
    assert torch.equal(whole.step(feed[1]).loss, resumed.step(feed[1]).loss)


def test_a_step_leaves_the_global_generator_alone(config, batches):
    learner = Learner(config())
    before = torch.get_rng_state()
    learner.step(batches(1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_the_weights_and_the_augmentation(config, batches):
    crops = batches(1)[0]
    losses = [float(Learner(config(), seed=seed).step(crops).loss) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_a_report_has_the_numbers_of_its_step(config, batches):
    learner = Learner(config())
    for crops in batches(3):
        report = learner.step(crops)
    host = report.to_host()
    assert (host.step, host.samples, host.updated) == (3, 4, True)
    assert (learner.step_count, learner.samples_seen) == (3, 12)
    assert host.lr == pytest.approx(0.5 * 2 / 5)
    assert host.epsilon == pytest.approx(0.026)
    assert host.temperature == 0.1
    assert host.loss_ratio == pytest.approx(host.loss / math.log(12))
    assert 0 < host.code_entropy_ratio < 1
    assert 0 <= host.view_agreement <= 1
    assert 0 < host.embedding_std_ratio <= 1.0001
    assert float(report.prototype_mass.sum()) == pytest.approx(1, abs=1e-5)
    assert host.grad_norm > 0


def test_prototypes_rest_while_frozen_and_stay_on_the_sphere_afterwards(config, batches):
    learner = Learner(config(optim=OptimConfig(kind="sgd", lr=0.5)))
    start = learner.model.prototypes.weight.detach().clone()
    for step, crops in enumerate(batches(5)):
        learner.step(crops)
        moved = not torch.equal(learner.model.prototypes.weight, start)
        assert moved == (step >= 3)
    norms = learner.model.prototypes.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(12), atol=1e-6, rtol=0)


def test_the_queue_starts_at_its_step_and_then_fills(config, batches):
    learner = Learner(config())
    ratios = [learner.step(crops) and learner.queue_fill_ratio for crops in batches(6)]
    assert ratios == [0.0, 0.0, 0.4, 0.8, 1.0, 1.0]
    assert Learner(config(queue=QueueConfig())).queue_fill_ratio == 0.0


def test_the_loss_falls_on_images_that_repeat(config, batches):
    settings = config(
        codes=CodesConfig(freeze_prototypes_steps=0), queue=QueueConfig(),
        optim=OptimConfig(kind="adamw", lr=3e-3),
    )  # fmt: skip
    learner = Learner(settings)
    crops = batches(1)[0]
    losses = [float(learner.step(crops).loss) for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


# -- non-finite steps --------------------------------------------------------------------------


def test_a_non_finite_step_changes_nothing_but_the_counters(config, batches):
    learner = Learner(config(health=HealthConfig(window_images=64, stuck_after_steps=0)))
    feed = batches(4)
    for crops in feed[:3]:
        learner.step(crops)
    good = learner.model.projection_head[3].bias.detach().clone()
    before = saved(learner)
    spoil(learner)
    report = learner.step(feed[3])
    assert report.skipped
    assert not math.isfinite(report.to_host().loss)
    with torch.no_grad():
        learner.model.projection_head[3].bias.copy_(good)
    after = saved(learner)
    assert (after["counters"]["step_count"], after["counters"]["samples_seen"]) == (4, 16)
    assert learner.nonfinite_steps == 1
    assert any(finding.name == "nonfinite_steps" for finding in learner.health().findings)
    # A skipped step's images count as time.
    assert after["vitals"].pop("window")["images"] == before["vitals"].pop("window")["images"] + 4
    del before["counters"], after["counters"]
    assert_same(after, before)


def test_several_non_finite_steps_in_a_row_raise_with_advice(config, batches):
    learner = Learner(config(health=HealthConfig(max_nonfinite_steps=2)))
    feed = batches(4)
    learner.step(feed[0])
    good = learner.model.projection_head[3].bias.detach().clone()
    spoil(learner)
    learner.step(feed[1])
    with torch.no_grad():
        learner.model.projection_head[3].bias.copy_(good)
    assert not learner.step(feed[2]).skipped  # the row is broken
    spoil(learner)
    assert learner.step(feed[3]).skipped
    with pytest.raises(NonFiniteLossError, match=r"steps 4 to 5.*learner\.optim\.lr"):
        learner.step(feed[3])


def test_an_infinite_gradient_counts_as_non_finite(config, batches, monkeypatch):
    learner = Learner(config())
    feed = batches(2)
    learner.step(feed[0])
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda _grads: torch.tensor(float("inf")))
    assert learner.step(feed[1]).skipped


def test_a_first_step_with_broken_weights_names_the_cause(config, batches):
    learner = Learner(config())
    with torch.no_grad():
        learner.model.prototypes.weight.mul_(2)
    with pytest.raises(ValueError, match="not of unit norm"):
        learner.step(batches(1)[0])
    learner = Learner(config())
    spoil(learner)
    with pytest.raises(ValueError, match="not finite"):
        learner.step(batches(1)[0])


# -- precision, layout, input ------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
def test_bfloat16_trains_close_to_float32(config, batches, channels_last):
    feed = batches(3, sides=(48, 40))
    losses = {}
    for autocast in ("off", "bf16"):
        learner = Learner(config(autocast=autocast, channels_last=channels_last))
        reports = [learner.step(crops) for crops in feed]
        assert not any(report.skipped for report in reports)
        assert all(p.dtype == torch.float32 for p in learner.model.parameters())
        losses[autocast] = float(reports[0].loss)
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.1)
    assert losses["bf16"] != losses["off"]


def test_bfloat16_on_a_cpu_refuses_crops_that_shrink_to_one_pixel(config, batches):
    model = ModelConfig(hidden_dim=0, embedding_dim=8, num_prototypes=12)
    learner = Learner(config(model=model, autocast="bf16"))
    with pytest.raises(ValueError, match=r"one pixel before backbone\.layer4.*autocast off"):
        learner.step(batches(1, sides=(32, 16))[0])
    assert not Learner(config(model=model)).step(batches(1, sides=(32, 16))[0]).skipped


def test_one_view_is_refused(config):
    with pytest.raises(ValueError, match="has 1 view"):
        Learner(config()).step([torch.zeros(1, 4, 3, 24, 24, dtype=torch.uint8)])


# -- refused states ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": ModelConfig(backbone="shufflenet_v2_x0_5", hidden_dim=16, embedding_dim=8,
                                  num_prototypes=13)},
            r"state\.model\.prototypes\.weight is \[12, 8\], and \[13, 8\]",
        ),
        (
            {"model": ModelConfig(backbone="shufflenet_v2_x0_5", hidden_dim=0, embedding_dim=8,
                                  num_prototypes=12)},
            r"state\.model lacks projection_head\.bias",
        ),
        ({"queue": QueueConfig(length=6)}, r"state\.queue\.features is \[2, 10, 8\]"),
        ({"optim": OptimConfig(kind="adamw")}, r"state\.optimizer\.kind is 'lars', and 'adamw'"),
    ],
)  # fmt: skip
def test_the_state_of_another_configuration_is_refused_whole(config, batches, sections, message):
    source = Learner(config())
    source.step(batches(1)[0])
    target = Learner(config(**sections))
    before = saved(target)
    with pytest.raises(ValueError, match=message):
        target.load_state_dict(saved(source))
    assert_same(saved(target), before)


def test_a_state_with_a_part_missing_or_unknown_is_refused(config):
    learner = Learner(config())
    state = saved(learner)
    with pytest.raises(ValueError, match="has the unknown extra"):
        learner.load_state_dict({**state, "extra": 1})
    del state["queue"]
    with pytest.raises(ValueError, match="state lacks queue"):
        learner.load_state_dict(state)
    with pytest.raises(ValueError, match=r"state\.model should be a mapping"):
        learner.load_state_dict({**saved(learner), "model": 3})
