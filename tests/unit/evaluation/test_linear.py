"""The linear probe: against torch's SGD, on separable features, and the same number twice."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from online_swav.errors import ConfigError
from online_swav.evaluation.heads import LinearHeads
from online_swav.evaluation.linear import (
    OFFICIAL,
    LinearConfig,
    augmented,
    cached,
    linear_probe,
)
from online_swav.evaluation.scoring import mean_average_precision, measure, top_k_accuracy
from online_swav.evaluation.trunks import trunk_from
from online_swav.evaluation.views import random_views, shuffled_batches


def blobs(count, *, classes, seed, spread=0.3):
    """Features around one corner for each class: linearly separable."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.randn(count, classes, generator=generator) * spread
    return torch.eye(classes)[labels] * 4 + noise, labels


def probe(config, *, classes=7):
    features, labels = blobs(210, classes=classes, seed=1)
    test_features, test_labels = blobs(70, classes=classes, seed=2)
    return linear_probe(
        cached(features, labels, config), test_features, test_labels, classes=classes, config=config
    )


@pytest.mark.parametrize("several", [False, True])
def test_every_head_is_torchs_sgd_at_its_rate(several):
    torch.manual_seed(0)
    features, classes = torch.randn(40, 6), 3
    labels = torch.rand(40, classes) > 0.5 if several else torch.randint(classes, (40,))
    rates = (0.05, 0.4)
    heads = LinearHeads(
        rates=rates, classes=classes, features=6, momentum=0.9, weight_decay=0.01, seed=3
    )
    singles = []
    for rate in rates:
        single = nn.Linear(6, classes)
        with torch.no_grad():
            single.weight.copy_(heads.weight[0])
            single.bias.zero_()
        sgd = torch.optim.SGD(single.parameters(), lr=rate, momentum=0.9, weight_decay=0.01)
        singles.append((single, sgd, rate))
    for scale in (1.0, 0.5, 0.25):
        heads.step(features, labels, scale=scale)
        for single, sgd, rate in singles:
            sgd.param_groups[0]["lr"] = rate * scale
            scores = single(features)
            if several:
                loss = nn.functional.binary_cross_entropy_with_logits(
                    scores, labels.float(), reduction="none"
                ).sum(1).mean()  # fmt: skip
            else:
                loss = nn.functional.cross_entropy(scores, labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    for head, (single, _, _) in enumerate(singles):
        torch.testing.assert_close(heads.scores(head, features), single(features).detach())


def test_the_official_protocol():
    assert (OFFICIAL.epochs, OFFICIAL.rates, OFFICIAL.batch) == (100, (0.3,), 256)
    assert (OFFICIAL.momentum, OFFICIAL.weight_decay) == (0.9, 1e-6)


def test_separable_features_reach_all():
    rows = dict(probe(OFFICIAL).rows())
    assert rows["top-1, last epoch"] == 1.0
    assert rows["top-5, last epoch"] == 1.0
    assert rows["learning rate"] == 0.3


def test_the_same_number_twice_and_another_with_another_seed():
    config = LinearConfig(epochs=2, rates=(0.0001, 0.001), batch=8)
    assert probe(config) == probe(config)
    features, _ = blobs(30, classes=3, seed=1)
    orders = [
        torch.cat([labels for _, labels in cached(features, torch.arange(30), c)(epoch)]).tolist()
        for c, epoch in ((config, 0), (config, 1), (LinearConfig(seed=1), 0))
    ]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_last_and_best_are_apart():
    class Growing:
        """The test side sees a head that unlearns: labels are turned round after epoch 2."""

        def __init__(self):
            self.features, self.labels = blobs(60, classes=3, seed=5)

        def __call__(self, epoch):
            turned = (self.labels + (epoch >= 2)) % 3
            yield self.features, turned

    config = LinearConfig(epochs=40, rates=(0.3,))
    test_features, test_labels = blobs(30, classes=3, seed=6)
    result = linear_probe(Growing(), test_features, test_labels, classes=3, config=config)
    assert result.chosen.best["top-1"] == 1.0
    assert result.chosen.best_epoch <= 4
    assert result.chosen.last["top-1"] == 0.0


def test_a_diverging_head_harms_only_itself():
    alone = probe(LinearConfig(epochs=5, rates=(0.3,)))
    beside = probe(LinearConfig(epochs=5, rates=(0.3, 1e30)))
    assert beside.heads[0] == alone.heads[0]
    assert beside.heads[1].last["top-1"] == 0.0
    assert beside.chosen.rate == 0.3
    assert ("top-1, last epoch, rate 1e+30", 0.0) in beside.rows()


def test_of_equal_heads_the_smallest_rate_is_chosen():
    assert probe(LinearConfig(epochs=30, rates=(1.0, 0.1, 0.3))).chosen.rate == 0.1


def test_the_rate_falls_on_a_half_cosine_by_epoch(monkeypatch):
    scales = []
    monkeypatch.setattr(LinearHeads, "step", lambda *_, scale: scales.append(scale))
    probe(LinearConfig(epochs=4, batch=210))
    assert scales == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 0}, {"rates": ()}, {"rates": (0.1, 0.0)}, {"rates": (math.nan,)}],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="must be"):
        LinearConfig(**wrong)


def test_augmented_views_are_new_every_epoch_and_the_same_for_a_seed(coloured):
    train, test = coloured
    trunk = trunk_from("pixels")
    config = LinearConfig(epochs=2, batch=8, rates=(0.001,))
    looks = [
        torch.cat([features for features, _ in augmented(trunk, train, config)(epoch)])
        for epoch in (0, 0, 1)
    ]
    assert torch.equal(looks[0], looks[1])
    assert not torch.equal(looks[0], looks[2])
    state = torch.get_rng_state()
    test_features = torch.cat([trunk(part.images) for part in test.squares()])
    first, again = (
        linear_probe(augmented(trunk, train, config), test_features, test.labels, classes=2,
                     config=config) for _ in range(2)
    )  # fmt: skip
    assert first == again
    assert first.chosen.last["top-1"] == 1.0
    assert torch.equal(torch.get_rng_state(), state)


def test_augmented_views_of_what_does_not_decode(coloured, caplog):
    train, _ = coloured
    trunk, config = trunk_from("pixels"), LinearConfig(epochs=2, batch=8, rates=(0.001,))
    Path(train.places[3].path).write_bytes(b"no picture")
    epochs = augmented(trunk, train, config)
    assert [sum(len(labels) for _, labels in epochs(epoch)) for epoch in (0, 1)] == [15, 15]
    assert caplog.text.count("images_left_out=1 of=16") == 1, "told once"
    for place in train.places:
        Path(place.path).unlink()
    test = torch.zeros(2, 3 * 32 * 32), torch.tensor([0, 1])
    with pytest.raises(ConfigError, match=r"none of the 16 images in .* decodes"):
        linear_probe(augmented(trunk, train, config), *test, classes=2, config=config)


def test_pictures_are_asked_for_one_by_one_and_the_draws_are_the_same():
    pictures = [torch.randint(256, (3, 30, 40), dtype=torch.uint8) for _ in range(3)]
    events = []

    def one_by_one():
        for number, picture in enumerate(pictures):
            events.append(number)
            yield picture
            events.append("cropped")

    views = random_views(one_by_one(), size=8, seed=1)
    assert torch.equal(views, random_views(pictures, size=8, seed=1))
    assert events == [0, "cropped", 1, "cropped", 2, "cropped"]
    assert random_views([], size=8, seed=1).shape == (0, 3, 8, 8)


def test_views_have_the_size_and_batches_their_own_seeds():
    views = random_views([torch.zeros(3, 50, 20, dtype=torch.uint8)] * 2, size=16, seed=0)
    assert views.shape == (2, 3, 16, 16)
    seeds = {seed for epoch in range(3) for _, seed in
             shuffled_batches(10, batch=2, seed=0, epoch=epoch)}  # fmt: skip
    assert len(seeds) == 15


def test_accuracy_counts_what_is_no_number_as_wrong():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [math.nan, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 0])
    assert top_k_accuracy(scores, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert list(measure(scores, labels)) == ["top-1"]


def test_average_precision_by_hand():
    # Ranked: right, wrong, right -> precision 1 at recall 1/2, 2/3 at recall 1.
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.1, 0.0]])
    labels = torch.tensor([[True, False], [False, False], [True, False]])
    found = mean_average_precision(scores, labels)  # the class that never occurs is left out
    assert found["mAP"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["mAP 11-point"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_eleven_points_where_the_first_in_rank_is_wrong():
    """VOC 2007 takes the highest precision among real points: none has precision 1 here."""
    found = mean_average_precision(
        torch.tensor([[0.9], [0.1]]), torch.tensor([[False], [True]])
    )  # fmt: skip
    assert found["mAP 11-point"] == pytest.approx(0.5)
