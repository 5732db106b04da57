"""Properties of the codes for any scores."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from online_swav.learning.sinkhorn import sinkhorn


@st.composite
def problems(draw):
    num, num_prototypes = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.rand(num, num_prototypes, generator=generator) * 2 - 1
    return scores, draw(st.sampled_from([0.01, 0.05, 0.5])), draw(st.integers(1, 6))


def close(one, two):
    torch.testing.assert_close(one, two, atol=2e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_rows_are_distributions(problem):
    scores, epsilon, iterations = problem
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    assert (codes >= 0).all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(len(scores)), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_permuted_samples_and_prototypes_permute_the_codes(problem, random):
    scores, epsilon, iterations = problem
    rows, columns = list(range(scores.shape[0])), list(range(scores.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    permuted = sinkhorn(scores[rows][:, columns], epsilon=epsilon, iterations=iterations)
    close(permuted, codes[rows][:, columns])


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(-1, 1))
def test_a_shift_of_all_scores_or_of_a_prototype_changes_nothing(problem, shift):
    scores, epsilon, iterations = problem
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    close(sinkhorn(scores + shift, epsilon=epsilon, iterations=iterations), codes)
    moved = scores.clone()
    moved[:, 0] += shift
    close(sinkhorn(moved, epsilon=epsilon, iterations=iterations), codes)
