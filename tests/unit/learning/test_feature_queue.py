"""Order, fill, shares and state of the queue, against a plain list."""

import pytest
import torch

from online_swav.learning.feature_queue import FeatureQueue


def rows(*values):
    """[2, B, 1] with the given values; the second view has them negated."""
    column = torch.tensor(values, dtype=torch.float32)[:, None]
    return torch.stack([column, -column])


def contents(queue):
    return queue.features[0, :, 0].tolist()


def test_newest_come_first_and_oldest_fall_out():
    queue = FeatureQueue(num_views=2, length=5, dim=1)
    model = []
    for batch in ([1, 2], [3, 4], [5, 6], [7]):
        queue.push(rows(*batch), step=0)
        model = (batch + model)[:5]
        assert contents(queue)[: len(model)] == model
        assert queue.filled == len(model)
        assert queue.full == (len(model) == 5)
    assert queue.features[1, :, 0].tolist() == [-value for value in model]


def test_a_batch_longer_than_the_queue_keeps_its_first_rows():
    queue = FeatureQueue(num_views=2, length=3, dim=1)
    queue.push(rows(1, 2, 3, 4), step=0)
    assert contents(queue) == [1, 2, 3]
    assert queue.full


def test_a_queue_of_length_zero_never_counts():
    queue = FeatureQueue(num_views=2, length=0, dim=1)
    queue.push(rows(1, 2), step=0)
    assert not queue.full


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_of_all_ranks_are_the_queue_once(size):
    queue = FeatureQueue(num_views=2, length=5, dim=1)
    queue.push(rows(1, 2, 3, 4, 5), step=0)
    shares = [queue.share(rank=rank, size=size)[0, :, 0].tolist() for rank in range(size)]
    assert sorted(row for share in shares for row in share) == [1, 2, 3, 4, 5]


def test_the_state_holds_features_and_fill():
    queue = FeatureQueue(num_views=2, length=5, dim=1)
    queue.push(rows(1, 2, 3), step=0)
    other = FeatureQueue(num_views=2, length=5, dim=1)
    other.load_state_dict(queue.state_dict())
    assert other.filled == 3
    assert torch.equal(other.features, queue.features)
