"""What an inspection measures, on tensors whose answer is known."""

import pytest
import torch
import torch.nn.functional as F

from online_swav.learning.findings import HealthValues
from online_swav.learning.inspection import (
    Inspection,
    drift,
    duplicate_share,
    marginal_error,
    usage_ratio,
)
from online_swav.learning.ranks import SINGLE_RANK


def unit(num, dim=16, seed=0):
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_duplicates_are_counted_across_blocks_of_rows(monkeypatch):
    prototypes = unit(40)
    assert float(duplicate_share(prototypes)) == 0
    prototypes[30] = prototypes[3]
    for rows in (7, 1024):
        monkeypatch.setattr("online_swav.learning.inspection.ROWS_AT_ONCE", rows)
        assert float(duplicate_share(prototypes)) == pytest.approx(2 / 40)


def test_drift_is_zero_at_rest_and_scales_to_a_thousand_steps():
    before = unit(8)
    assert float(drift(before, before, steps=10)) == pytest.approx(0, abs=1e-4)
    assert float(drift(before, -before, steps=500)) == pytest.approx(4)


def test_equal_shares_have_no_marginal_error_and_one_winner_the_largest():
    equal = torch.full((2, 12, 4), 0.25)
    assert float(marginal_error(equal, SINGLE_RANK)) == pytest.approx(0)
    one = torch.zeros(2, 12, 4)
    one[..., 0] = 1
    assert float(marginal_error(one, SINGLE_RANK)) == pytest.approx((3 + 3 * 1) / 4)


def test_usage_in_eval_mode_is_compared_with_that_in_training():
    spread, one = torch.eye(8), torch.eye(8)[:1].expand(8, -1)
    assert float(usage_ratio(spread, spread, SINGLE_RANK)) == pytest.approx(1)
    assert float(usage_ratio(spread, one, SINGLE_RANK)) == pytest.approx(1 / 8)
    assert float(usage_ratio(spread[:0], spread[:0], SINGLE_RANK)) == pytest.approx(1)


def test_a_held_slice_is_encoded_again_when_it_is_as_old_as_the_queue():
    inspection = Inspection(ranks=SINGLE_RANK, every_steps=10)
    assert [step for step in range(31) if inspection.due(step)] == [10, 20, 30]
    answers = [unit(6, seed=1), unit(6, seed=1)]

    def encode(images):
        return answers[0][: len(images)], torch.eye(6)[: len(images)]

    images, prototypes = torch.zeros(6, 3, 4, 4), unit(6)
    inspection.inspect(10, images=images, scores=torch.eye(6), prototypes=prototypes,
                       encode=encode, queue_steps=5)  # fmt: skip
    inspection.compare_held(14, encode)
    assert inspection.added_to(HealthValues()).queue_cosine is None, "too early"
    answers[0] = -answers[1]
    inspection.compare_held(15, encode)
    found = inspection.added_to(HealthValues())
    assert found.queue_cosine == pytest.approx(-1)
    assert found.eval_usage_ratio == pytest.approx(1)
    assert found.prototype_drift is None, "needs two looks"
    inspection.inspect(20, images=images, scores=torch.eye(6), prototypes=-prototypes,
                       encode=encode, queue_steps=0)  # fmt: skip
    assert inspection.added_to(HealthValues()).prototype_drift == pytest.approx(200)
