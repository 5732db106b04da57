"""The window and the running means: what they measure, and what a skipped step adds to them."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from online_swav.learning.findings import HealthValues
from online_swav.learning.health import HealthMonitor, perplexity, rankme, spectrum_alpha

K, D, FEATURES = 50, 32, 64
NEVER = torch.tensor(False)


def spread(num=1000, dim=D, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, dim, generator=generator), dim=1)


def monitor(window_images, num_prototypes=K):
    return HealthMonitor(num_prototypes=num_prototypes, embedding_dim=D, feature_dim=FEATURES,
                         window_images=window_images)  # fmt: skip


def add(target, embeddings, *, loss=1.0, norm=2.0, unless=NEVER, settled=True, features=None):
    generator = torch.Generator().manual_seed(9)
    prototypes = F.normalize(torch.randn(target.counts.shape[1], D, generator=generator), dim=1)
    target.update(
        embeddings @ prototypes.T, embeddings,
        spread(len(embeddings), FEATURES) if features is None else features,
        loss=torch.tensor(loss), code_entropy=torch.tensor(0.5), view_agreement=torch.tensor(0.4),
        grad_norm=torch.tensor(norm), images=len(embeddings), unless=unless, settled=settled,
    )  # fmt: skip


def test_rankme_of_the_second_moment_equals_its_svd_form():
    embeddings = spread(200) * torch.linspace(1, 0.01, D)
    singular = torch.linalg.svdvals(embeddings.double())
    p = singular / singular.sum()
    expected = torch.exp(-(p * p.log()).sum())
    assert rankme(embeddings.T @ embeddings) == pytest.approx(float(expected), rel=1e-3)
    assert rankme(torch.zeros(4, 4)) == 0.0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_alpha_is_the_decay_of_a_power_law(alpha):
    eigenvalues = torch.arange(1, 65, dtype=torch.float64).pow(-alpha).flip(0)
    assert spectrum_alpha(eigenvalues) == pytest.approx(alpha)
    assert spectrum_alpha(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)) is None


def test_perplexity_counts_what_is_used():
    assert perplexity(torch.tensor([3.0, 3.0, 0.0, 3.0])) == pytest.approx(3)
    assert perplexity(torch.zeros(4)) == 0.0


def test_a_window_measures_usage_spread_and_ranks():
    target = monitor(1000)
    for part in spread().split(100):
        add(target, part, loss=0.6 * math.log(K))
    values = target.values()
    assert values.images == 1000
    assert values.usage_perplexity_ratio > 0.8
    assert values.dead_prototype_ratio == 0
    assert values.effective_rank > 0.95 * D
    assert values.embedding_std_ratio == pytest.approx(1, abs=0.02)
    assert 0.8 * FEATURES < values.feature_rank <= FEATURES
    assert 0 < values.spectrum_alpha < 2
    assert values.loss_ratio == pytest.approx(0.6)
    assert values.best_loss_ratio == pytest.approx(0.6)
    assert values.code_entropy_ratio == pytest.approx(0.5 / math.log(K))
    assert values.view_agreement_ratio == pytest.approx(0.4)
    assert values.gradient_norm_ratio == pytest.approx(1)


def test_a_window_of_one_direction_is_narrow_and_flat():
    target = monitor(100)
    noise = torch.randn(100, D, generator=torch.Generator().manual_seed(0))
    add(target, F.normalize(torch.ones(D) + 0.01 * noise, dim=1))
    values = target.values()
    assert values.usage_perplexity_ratio * K < 1.5
    assert values.dead_prototype_ratio >= (K - 2) / K
    assert values.embedding_std_ratio < 0.1
    assert values.effective_rank < 6


def test_before_the_first_window_only_running_means_are_known():
    target = monitor(1000)
    assert target.values() == HealthValues()
    add(target, spread(100), loss=3.0)
    values = target.values()
    assert values.usage_perplexity_ratio is None
    assert values.best_loss_ratio is None
    assert values.loss_ratio == pytest.approx(3 / math.log(K))


def test_a_skipped_step_adds_nothing_but_time():
    target = monitor(200)
    add(target, spread(100))
    before = {name: value.clone() for name, value in target.named_buffers()}
    bad = torch.full((100, D), math.nan)
    target.update(
        bad @ torch.ones(D, K), bad, torch.full((100, FEATURES), math.inf),
        loss=torch.tensor(math.nan), code_entropy=torch.tensor(math.nan),
        view_agreement=torch.tensor(math.nan), grad_norm=torch.tensor(math.nan),
        images=50, unless=~NEVER, settled=True,
    )  # fmt: skip
    for name, value in target.named_buffers():
        assert torch.equal(value, before[name]), name
    assert target.images == 150


def test_windows_follow_each_other_and_do_not_mix():
    target = monitor(100)
    add(target, spread(100))
    assert target.values().effective_rank > 20
    line = torch.zeros(50, D)
    line[:, 0] = 1
    add(target, line)
    assert target.values().effective_rank > 20  # not full yet
    add(target, line)
    assert target.values().effective_rank == pytest.approx(1)
    assert target.values().images == 100


def test_the_lowest_loss_is_kept_once_the_ramps_are_over():
    target = monitor(100)
    add(target, spread(100), loss=0.5, settled=False)
    assert target.values().best_loss_ratio is None
    for loss in (1.0, 3.0, 3.0):
        add(target, spread(100), loss=loss)
    values = target.values()
    assert values.best_loss_ratio < values.loss_ratio


def test_the_lowest_loss_is_slowly_forgotten_and_at_once_when_the_problem_changes():
    target = monitor(100)
    add(target, spread(100), loss=0.1 * math.log(K))
    best = target.values().best_loss_ratio
    for _ in range(20):
        add(target, spread(100), loss=0.9 * math.log(K))
    assert target.values().best_loss_ratio == pytest.approx(best + 20 * 0.002)
    target.forget_best()
    assert target.values().best_loss_ratio is None


def test_only_rank_0_brings_the_sums_of_a_checkpoint():
    first, other = monitor(100), monitor(100)
    add(first, spread(100))
    other.load_state_dict(first.state_dict())
    other.resume(slot=first.slot, images=first.images, first=False)
    assert first.fresh
    assert not other.fresh
    assert other.values().images == 0


def test_a_jump_of_the_gradient_is_seen_against_its_past():
    target = monitor(100)
    for _ in range(300):
        add(target, spread(2), norm=1.0)
    assert target.values().gradient_norm_ratio == pytest.approx(1)
    for _ in range(30):
        add(target, spread(2), norm=100.0)
    assert target.values().gradient_norm_ratio > 10


def test_a_window_continues_from_its_state():
    first, second = monitor(200), monitor(200)
    parts = spread(300).split(100)
    add(first, parts[0])
    second.load_state_dict(first.state_dict())
    second.resume(slot=first.slot, images=first.images, first=True)
    for part in parts[1:]:
        add(first, part)
        add(second, part)
    found = dataclasses.asdict(second.values())
    expected = dataclasses.asdict(first.values())
    own = {"feature_rank", "spectrum_alpha"}  # they begin anew
    assert {n: v for n, v in found.items() if n not in own} == {
        n: v for n, v in expected.items() if n not in own
    }
    assert second.values().images == 200
