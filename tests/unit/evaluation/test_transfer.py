"""Transfer: both protocols on one label and on several."""

import pytest
import torch

from online_swav.errors import ConfigError
from online_swav.evaluation.features import Features
from online_swav.evaluation.linear import LinearConfig
from online_swav.evaluation.transfer import transfer

CONFIG = LinearConfig(epochs=30, rates=(0.1, 1.0))


def side(count, *, seed, several):
    """Images of one, or of one or two, of six classes: a direction for each class."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.arange(count) % 6
    second = (first + torch.arange(count) // 6) % 6
    labels = torch.zeros(count, 6, dtype=torch.bool)
    labels[torch.arange(count), first] = True
    if several:
        labels[torch.arange(count), second] = True
    features = labels.float() * 3 + torch.randn(count, 6, generator=generator) * 0.1
    return Features(
        features=features, labels=labels if several else first, indices=torch.arange(count)
    )


def sides(*, several):
    return side(120, seed=0, several=several), side(36, seed=1, several=several)


def test_one_label_is_judged_by_accuracy():
    train, test = sides(several=False)
    result = transfer(train, test, classes=6, config=CONFIG, ks=(1, 5))
    rows = dict(result.rows())
    assert rows["linear top-1, last epoch"] == 1.0
    assert rows["k-NN top-1, k 1"] == rows["k-NN top-5, k 5"] == 1.0
    assert result == transfer(train, test, classes=6, config=CONFIG, ks=(1, 5))


def test_several_labels_are_judged_by_average_precision():
    train, test = sides(several=True)
    rows = dict(transfer(train, test, classes=6, config=CONFIG, ks=(1, 5)).rows())
    assert rows["linear mAP, last epoch"] == 1.0
    assert rows["linear mAP 11-point, last epoch"] == 1.0
    assert rows["k-NN mAP, k 5"] == 1.0
    assert not any("top-1" in name for name in rows)


def test_features_without_meaning_come_to_the_share_of_the_labels():
    train, test = sides(several=True)
    noise = torch.randn(120, 6, generator=torch.Generator().manual_seed(2))
    lost = Features(features=noise, labels=train.labels, indices=train.indices)
    rows = dict(transfer(lost, test, classes=6, config=CONFIG, ks=(20,)).rows())
    assert rows["linear mAP, last epoch"] < 0.7
    assert rows["k-NN mAP, k 20"] < 0.7


def test_votes_are_compared_between_images_by_their_share():
    """One lone sure neighbour ranks above a crowd that is divided: 1 vote of 1, 2 of 4."""
    crowd = [0.0, 1.0]
    train = Features(
        features=torch.tensor([[1.0, 0.0], crowd, crowd, crowd, crowd]),
        labels=torch.tensor([[True, False], *[[True, False]] * 2, *[[False, True]] * 2]),
        indices=torch.arange(5),
    )
    test = Features(
        features=torch.tensor([[1.0, 0.0], crowd]),
        labels=torch.tensor([[True, False], [False, True]]),
        indices=torch.arange(2),
    )
    rows = dict(transfer(train, test, classes=2, config=CONFIG, ks=(4, 9)).rows())
    assert rows["k-NN mAP, k 4"] == 1.0
    assert rows["k-NN mAP, k 9 (all 5)"] == 1.0


def test_no_label_at_all():
    train, test = sides(several=True)
    bare = Features(
        features=test.features, labels=torch.zeros_like(test.labels), indices=test.indices
    )
    with pytest.raises(ConfigError, match="no test image has any label"):
        transfer(train, bare, classes=6, config=CONFIG)
