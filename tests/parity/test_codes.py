"""Codes against Sinkhorn-Knopp in the linear domain, float64, written from paper section 3.1."""

import numpy as np
import pytest
import torch

import online_swav.learning.learner as learner_module
from online_swav.learning.config import (
    AugmentConfig,
    CodesConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    QueueConfig,
    RampConfig,
    ScheduleConfig,
)
from online_swav.learning.learner import Learner
from online_swav.learning.sinkhorn import sinkhorn


def reference_codes(scores, epsilon, iterations):
    """Q [K, B] as in the paper; returned as [B, K] with rows that sum to 1."""
    q = np.exp(np.asarray(scores, dtype=np.float64).T / epsilon)
    num_prototypes, num_samples = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q = q / q.sum(axis=1, keepdims=True) / num_prototypes
        q = q / q.sum(axis=0, keepdims=True) / num_samples
    return (q * num_samples).T


def cosines(num, num_prototypes, *, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    embeddings = unit(torch.randn(num, dim, generator=generator), dim=1)
    return embeddings @ unit(torch.randn(num_prototypes, dim, generator=generator), dim=1).T


@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.03, 0.01])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_paper_in_float64(epsilon, iterations):
    scores = cosines(40, 30)
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    expected = reference_codes(scores, epsilon, iterations)
    np.testing.assert_allclose(codes.numpy(), expected, atol=1e-5)


def test_many_iterations_give_every_prototype_the_same_mass():
    codes = sinkhorn(cosines(60, 12), epsilon=0.05, iterations=200)
    torch.testing.assert_close(codes.sum(dim=0), torch.full((12,), 60 / 12), atol=1e-3, rtol=0)


def test_sharp_codes_of_many_prototypes_stay_finite_where_the_linear_domain_fails():
    scores = cosines(64, 3000)
    scores[0] = -1.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        linear = np.exp(scores.numpy() / np.float32(0.005))
        linear /= linear.sum()
    assert not linear[0].any()
    codes = sinkhorn(scores, epsilon=0.005, iterations=3)
    assert codes.isfinite().all()
    np.testing.assert_allclose(codes.numpy(), reference_codes(scores, 0.005, 3), atol=2e-4)


@pytest.mark.parametrize("split", [[20, 20], [31, 9], [0, 40], [10, 25, 5]])
def test_samples_spread_unevenly_over_ranks_get_the_same_codes(on_ranks, split):
    scores = cosines(40, 30)
    parts = scores.split(split)
    together = sinkhorn(scores, epsilon=0.05, iterations=3)
    apart = on_ranks(
        len(split), lambda r: sinkhorn(parts[r.rank], epsilon=0.05, iterations=3, ranks=r)
    )
    torch.testing.assert_close(torch.cat(apart), together, atol=1e-5, rtol=0)


# -- the codes inside a whole learner step -----------------------------------------------------

EPSILON = 0.04


def config(queue_length):
    return LearnerConfig(
        model=ModelConfig(
            backbone="shufflenet_v2_x0_5", hidden_dim=16, embedding_dim=8, num_prototypes=10
        ),
        codes=CodesConfig(
            epsilon=RampConfig(start=EPSILON, end=EPSILON), freeze_prototypes_steps=0
        ),
        queue=QueueConfig(length=queue_length),
        augment=AugmentConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0),
        optim=OptimConfig(kind="sgd", lr=1e-12),
        schedule=ScheduleConfig(warmup_steps=0),
    )


def batches(num, size):
    generator = torch.Generator().manual_seed(3)
    return [
        [
            torch.randint(0, 256, (views, size, 3, side, side), dtype=torch.uint8,
                          generator=generator)
            for views, side in ((2, 24), (1, 16))
        ]
        for _ in range(num)
    ]  # fmt: skip


def build(settings, **kwargs):
    """A learner whose batch norm is in evaluation mode: an image's embedding is its own."""
    learner = Learner(settings, seed=1, **kwargs)
    learner.model.eval()
    return learner


@pytest.fixture
def seen(monkeypatch):
    """Scores and codes that reach the loss, per call."""
    calls = []
    true_loss = learner_module.swapped_prediction_loss

    def loss(scores, codes, *, temperature):
        calls.append((scores.detach(), codes))
        return true_loss(scores, codes, temperature=temperature)

    monkeypatch.setattr(learner_module, "swapped_prediction_loss", loss)
    return calls


@pytest.mark.parametrize("queue_length", [0, 12])
def test_codes_of_a_learner_step_equal_the_paper(seen, queue_length):
    learner = build(config(queue_length))
    stored = torch.zeros(2, 0, 8)
    for crops in batches(4, 6):
        learner.step(crops)
        scores, codes = seen[-1]
        prototypes = learner.model.prototypes.weight.detach()
        full = queue_length and stored.shape[1] >= queue_length
        for view in range(2):
            rows = scores[view]
            if full:
                rows = torch.cat([stored[view, :queue_length] @ prototypes.T, rows])
            expected = reference_codes(rows, EPSILON, 3)[-6:]
            np.testing.assert_allclose(codes[view].numpy(), expected, atol=1e-5)
        embeddings = scores[:2] @ torch.linalg.pinv(prototypes).T
        stored = torch.cat([embeddings, stored], dim=1)
    assert len(seen) == 4
    assert learner.queue_fill_ratio == (1.0 if queue_length else 0.0)


@pytest.mark.parametrize("queue_length", [0, 11])
def test_two_ranks_with_unequal_batches_learn_what_one_rank_learns(on_ranks, queue_length):
    settings = config(queue_length)
    feed = batches(3, 6)
    alone = build(settings)
    expected = [alone.step(crops) for crops in feed][-1]

    def prepare(ranks):
        return (slice(0, 4), slice(4, 6))[ranks.rank], build(settings, ranks=ranks)

    def work(prepared):
        part, learner = prepared
        for crops in feed:
            report = learner.step([family[:, part] for family in crops])
        return learner, report

    (first, first_report), (second, second_report) = on_ranks(2, work, prepare=prepare)
    mass = (4 * first_report.prototype_mass + 2 * second_report.prototype_mass) / 6
    torch.testing.assert_close(mass, expected.prototype_mass, atol=1e-5, rtol=0)
    loss = (4 * first_report.loss + 2 * second_report.loss) / 6
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=0)
    assert first_report.samples == expected.samples == 6
    assert first.samples_seen == alone.samples_seen == 18
    for one, two, both in zip(
        first.model.parameters(), second.model.parameters(), alone.model.parameters(), strict=True
    ):
        # What DDP computes: the mean of the ranks' gradients.
        torch.testing.assert_close((one.grad + two.grad) / 2, both.grad, atol=2e-5, rtol=1e-3)
    if queue_length:
        queue = first.state_dict()["queue"]["features"]
        assert torch.equal(queue, second.state_dict()["queue"]["features"])
        torch.testing.assert_close(
            queue, alone.state_dict()["queue"]["features"], atol=1e-5, rtol=0
        )


def test_a_non_finite_loss_on_one_rank_skips_the_step_on_all(on_ranks):
    feed = batches(2, 6)

    def prepare(ranks):
        return ranks.rank, build(config(0), ranks=ranks)

    def work(prepared):
        rank, learner = prepared
        learner.step(feed[0])
        if rank == 1:
            with torch.no_grad():
                learner.model.projection_head[3].weight[0, 0] = float("nan")
        before = learner.model.prototypes.weight.clone()
        report = learner.step(feed[1])
        return bool(report.skipped), torch.equal(before, learner.model.prototypes.weight)

    assert on_ranks(2, work, prepare=prepare) == [(True, True), (True, True)]
