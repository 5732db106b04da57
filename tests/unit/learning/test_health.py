"""Healthy runs raise no finding; made failures raise theirs."""

import math

import pytest
import torch
import torch.nn.functional as F

from online_swav.learning.findings import FINDING_NAMES
from online_swav.learning.health import HealthMonitor, HealthValues, assess, rankme

K, D = 50, 32
NEVER = torch.tensor(False)


def window(embeddings, *, num_prototypes=K, loss_ratio=0.6):
    """Values of one full window of these embeddings."""
    generator = torch.Generator().manual_seed(9)
    prototypes = F.normalize(torch.randn(num_prototypes, D, generator=generator), dim=1)
    monitor = HealthMonitor(
        num_prototypes=num_prototypes, embedding_dim=D, window_images=len(embeddings)
    )
    loss = torch.tensor(loss_ratio * math.log(num_prototypes))
    for part in embeddings.split(100):
        monitor.update(part @ prototypes.T, part, loss, images=len(part), unless=NEVER)
    return monitor.values()


def test_a_skipped_step_adds_nothing():
    monitor = HealthMonitor(num_prototypes=K, embedding_dim=D, window_images=200)
    part, loss = spread(100), torch.tensor(1.0)
    monitor.update(part @ torch.ones(D, K), part, loss, images=100, unless=NEVER)
    before = {name: value.clone() for name, value in monitor.state_dict().items()}
    bad = torch.full((100, D), math.nan)
    monitor.update(bad @ torch.ones(D, K), bad, torch.tensor(math.nan), images=100, unless=~NEVER)
    for name, value in monitor.state_dict().items():
        assert torch.equal(value, before[name]), name


def judge(values, *, step=1000, num_prototypes=K, recent_nonfinite=0):
    return assess(values, step=step, stuck_after_steps=500, num_prototypes=num_prototypes,
                  embedding_dim=D, recent_nonfinite=recent_nonfinite)  # fmt: skip


def names(health):
    return [finding.name for finding in health.findings]


def spread(num=1000):
    return F.normalize(torch.randn(num, D, generator=torch.Generator().manual_seed(0)), dim=1)


def collapsed(num=1000):
    noise = torch.randn(num, D, generator=torch.Generator().manual_seed(0))
    return F.normalize(torch.ones(D) + 0.01 * noise, dim=1)


def test_rankme_of_the_second_moment_equals_its_svd_form():
    embeddings = spread(200) * torch.linspace(1, 0.01, D)
    singular = torch.linalg.svdvals(embeddings.double())
    p = singular / singular.sum()
    expected = torch.exp(-(p * p.log()).sum())
    assert rankme(embeddings.T @ embeddings) == pytest.approx(float(expected), rel=1e-3)
    assert rankme(torch.zeros(4, 4)) == 0.0


def test_a_window_measures_usage_spread_and_rank():
    values = window(spread())
    assert values.images == 1000
    assert values.usage_perplexity_ratio > 0.8
    assert values.effective_rank > 0.95 * D
    assert values.embedding_std_ratio == pytest.approx(1, abs=0.02)
    assert values.loss_ratio == pytest.approx(0.6)


def test_before_the_first_window_the_verdict_is_unknown():
    monitor = HealthMonitor(num_prototypes=K, embedding_dim=D, window_images=1000)
    assert monitor.values() == HealthValues()
    part = spread(100)
    monitor.update(torch.rand(100, K), part, torch.tensor(3.0), images=100, unless=NEVER)
    values = monitor.values()
    assert values.usage_perplexity_ratio is None
    assert values.loss_ratio == pytest.approx(3 / math.log(K))
    assert judge(values, step=1).verdict == "unknown"


@pytest.mark.parametrize("num_prototypes", [4, 8, 64, 300])
def test_healthy_embeddings_raise_no_finding_for_any_k(num_prototypes):
    values = window(spread(), num_prototypes=num_prototypes)
    health = judge(values, num_prototypes=num_prototypes)
    assert health.verdict == "ok"
    assert health.findings == ()


def test_more_prototypes_than_images_in_the_window_are_no_finding():
    values = window(spread(100), num_prototypes=3000)
    assert values.usage_perplexity_ratio < 0.1
    assert judge(values, num_prototypes=3000).verdict == "ok"


def test_a_collapsed_encoder_is_called_so_after_the_start():
    values = window(collapsed(), loss_ratio=1.0)
    health = judge(values)
    assert health.verdict == "collapsed"
    assert names(health)[0] == "embedding_collapse"
    assert {"low_effective_rank", "narrow_prototype_usage", "stuck_at_log_k"} < set(names(health))
    early = judge(values, step=10)
    assert early.verdict == "degraded"
    assert "stuck_at_log_k" not in names(early)


def test_few_dimensions_are_a_finding_of_their_own():
    line = torch.zeros(1000, D)
    line[:, :2] = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    line[:, 1] *= 0.1
    health = judge(window(F.normalize(line, dim=1), num_prototypes=8), num_prototypes=8)
    assert health.verdict == "degraded"
    assert names(health) == ["low_effective_rank"]


def test_loss_at_log_k_and_skipped_steps_are_findings():
    health = judge(window(spread(), loss_ratio=0.999), recent_nonfinite=2)
    assert health.verdict == "degraded"
    assert names(health) == ["stuck_at_log_k", "nonfinite_steps"]
    assert all(finding.remedy and finding.healthy for finding in health.findings)
    assert set(names(health)) <= set(FINDING_NAMES)


def test_a_window_is_whole_and_survives_its_state():
    first = HealthMonitor(num_prototypes=K, embedding_dim=D, window_images=200)
    parts = spread(300).split(100)
    loss = torch.tensor(1.0)
    for part in parts[:1]:
        first.update(part @ torch.ones(D, K), part, loss, images=100, unless=NEVER)
    second = HealthMonitor(num_prototypes=K, embedding_dim=D, window_images=200)
    second.load_state_dict(first.state_dict())
    for monitor in (first, second):
        for part in parts[1:]:
            monitor.update(part @ torch.ones(D, K), part, loss, images=100, unless=NEVER)
    assert first.values() == second.values()
    assert first.values().images == 200
