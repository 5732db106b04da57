"""What Sinkhorn refuses, and its precision under autocast."""

import pytest
import torch

from online_swav.learning.sinkhorn import check_scores, sinkhorn


@pytest.mark.parametrize(
    ("num", "epsilon", "iterations", "message"),
    [(3, 0.0, 3, "epsilon"), (3, 0.05, 0, "iterations"), (0, 0.05, 3, "at least one sample")],
)
def test_bad_arguments_are_refused(num, epsilon, iterations, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(torch.zeros(num, 4), epsilon=epsilon, iterations=iterations)


def test_codes_are_float32_without_gradient_under_autocast():
    scores = (torch.rand(6, 5) * 2 - 1).requires_grad_()
    expected = sinkhorn(scores, epsilon=0.05, iterations=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = sinkhorn(scores, epsilon=0.05, iterations=3)
    assert codes.dtype == torch.float32
    assert not codes.requires_grad
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_named(bad):
    scores = torch.zeros(3, 4)
    scores[1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        check_scores(scores)


def test_scores_outside_the_cosines_are_named():
    check_scores(torch.tensor([[1.0005, -1.0]]))
    with pytest.raises(ValueError, match=r"1\.2000: embeddings or prototypes are not of unit"):
        check_scores(torch.tensor([[1.2, 0.0]]))
