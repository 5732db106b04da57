"""The loss against loops over views and images, float64, from paper equations 1 and 2."""

import math

import numpy as np
import pytest
import torch

from online_swav.learning.loss import swapped_prediction_loss


def reference_loss(scores, codes, temperature):
    num_views, num_images, _ = scores.shape
    total = 0.0
    for assigned in range(len(codes)):
        over_views = 0.0
        for view in range(num_views):
            if view == assigned:
                continue
            over_images = 0.0
            for image in range(num_images):
                logits = scores[view, image] / temperature
                log_p = logits - np.log(np.sum(np.exp(logits)))
                over_images -= np.sum(codes[assigned, image] * log_p)
            over_views += over_images / num_images
        total += over_views / (num_views - 1)
    return total / len(codes)


@pytest.mark.parametrize("num_views", [2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_paper_in_float64(num_views, temperature):
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, (num_views, 6, 9))
    codes = rng.dirichlet(np.ones(9), (2, 6))
    loss = swapped_prediction_loss(
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(codes, dtype=torch.float32),
        temperature=temperature,
    )
    assert float(loss) == pytest.approx(reference_loss(scores, codes, temperature), rel=1e-5)


def test_a_view_gets_no_gradient_from_its_own_codes():
    scores = torch.zeros(2, 3, 4, requires_grad=True)
    codes = torch.zeros(2, 3, 4)
    codes[0, :, 0] = 1
    codes[1, :, 1] = 1
    swapped_prediction_loss(scores, codes, temperature=0.1).backward()
    assert (scores.grad[0, :, 1] < 0).all()
    assert (scores.grad[0, :, 0] > 0).all()
    assert (scores.grad[1, :, 0] < 0).all()


def test_scores_that_know_nothing_cost_log_k():
    codes = torch.full((2, 3, 64), 1 / 64)
    loss = swapped_prediction_loss(torch.zeros(6, 3, 64), codes, temperature=0.1)
    assert float(loss) == pytest.approx(math.log(64), rel=1e-5)


@pytest.mark.parametrize(
    ("num_views", "num_codes", "temperature", "message"),
    [(2, 2, 0.0, "temperature"), (1, 1, 0.1, "1 views"), (2, 3, 0.1, "2 views")],
)
def test_bad_arguments_are_refused(num_views, num_codes, temperature, message):
    with pytest.raises(ValueError, match=message):
        swapped_prediction_loss(
            torch.zeros(num_views, 3, 4), torch.zeros(num_codes, 3, 4), temperature=temperature
        )
