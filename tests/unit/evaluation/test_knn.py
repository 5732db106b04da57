"""k-NN against scikit-learn and a reference in float64."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from online_swav.evaluation.features import Features, extract_features, raw_pixel_features
from online_swav.evaluation.knn import KS, evaluate_knn, knn_accuracy, neighbour_votes


def reference(train, train_labels, test, test_labels, k, temperature):
    """Wu et al. 2018, section 3.4, image by image."""
    right = 0
    for row, label in zip(test, test_labels, strict=True):
        similarity = train @ row
        nearest = np.argsort(-similarity)[:k]
        votes = np.zeros(train_labels.max() + 1)
        for i in nearest:
            votes[train_labels[i]] += np.exp(similarity[i] / temperature)
        right += votes.argmax() == label
    return right / len(test)


def random_sides(*, train, test, classes, width=16):
    """Features of no particular norm that lean a little towards their class."""
    rng = np.random.default_rng(7)
    lean = rng.normal(size=(classes, width))
    sides = []
    for count in (train, test):
        labels = np.arange(count) % classes
        features = (rng.normal(size=(count, width)) + 0.5 * lean[labels]) * rng.uniform(1, 9)
        sides.append(Features(torch.tensor(features).float(), torch.tensor(labels),
                              torch.arange(count)))  # fmt: skip
    return sides


def test_every_k_equals_scikit_learn():
    classes = 12
    train, test = random_sides(train=600, test=150, classes=classes)
    found = evaluate_knn(train, test, num_classes=classes)
    assert [one.k for one in found.accuracies] == list(KS)
    for one in found.accuracies:
        judge = KNeighborsClassifier(
            one.k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(train.features.numpy(), train.labels.numpy())
        shares = judge.predict_proba(test.features.numpy())
        labels = test.labels.numpy()
        right = (shares.argmax(axis=1) == labels).mean()
        own = shares[np.arange(len(labels)), labels]
        first = np.argsort(-shares, axis=1, kind="stable")[:, :5]  # of equals the lower class
        among_five = ((first == labels[:, None]).any(axis=1) & (own > 0)).mean()
        assert (one.top1, one.top5) == (pytest.approx(right), pytest.approx(among_five))
    assert found.accuracies[-1].top5 > found.accuracies[-1].top1 > 1.5 / classes
    assert found.accuracies[0].top5 == found.accuracies[0].top1, "one neighbour, one class"
    assert found == evaluate_knn(train, test, num_classes=classes)
    assert dict(found.rows())["top-5, k 20"] == found.accuracies[3].top5


def test_a_collapsed_encoder_scores_by_chance():
    labels = torch.arange(60) % 12
    same = Features(torch.ones(60, 4), labels, torch.arange(60))
    found = evaluate_knn(same, same, num_classes=12, ks=(60, 200))
    assert [one.top1 for one in found.accuracies] == [pytest.approx(1 / 12)] * 2
    assert [one.top5 for one in found.accuracies] == [pytest.approx(5 / 12)] * 2
    assert [name for name, _ in found.rows()][:2] == ["top-1, k 60", "top-1, k 200 (all 60)"]


@pytest.mark.parametrize("k", [1, 5, 20, 500])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_equals_the_reference(k, chunk):
    rng = np.random.default_rng(k)
    features = rng.normal(size=(160, 8))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = rng.integers(4, size=160)
    parts = (features[:100], labels[:100], features[100:], labels[100:])
    tensors = (torch.tensor(parts[0]).float(), torch.tensor(parts[1]),
               torch.tensor(parts[2]).float(), torch.tensor(parts[3]))  # fmt: skip
    found = knn_accuracy(*tensors, k=k, chunk=chunk)
    assert found == pytest.approx(reference(*parts, k, 0.07))


def test_no_more_than_a_chunk_of_either_side_is_compared_at_once(monkeypatch):
    widths = []
    topk = torch.Tensor.topk

    def watched(tensor, k, dim):
        widths.append(tuple(tensor.shape))
        return topk(tensor, k, dim=dim)

    monkeypatch.setattr(torch.Tensor, "topk", watched)
    train, test = random_sides(train=900, test=130, classes=3)
    list(neighbour_votes(train.unit, train.labels, test.unit, num_classes=3, ks=(1, 20), chunk=50))
    assert max(rows for rows, _ in widths) == 50
    assert max(columns for _, columns in widths) == 50
    assert len(widths) == 2 * 3 * 18, "every chunk of one side against every one of the other"


def test_a_neighbour_with_several_labels_votes_for_all_of_them():
    train = torch.eye(3)
    labels = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    (votes,) = neighbour_votes(train, labels, train[:1], num_classes=3, ks=(1, 3), temperature=1.0)
    assert torch.equal(votes[1], torch.tensor([[1.0, 1.0, 0.0]]))
    far = float(torch.tensor(-1.0).exp())
    assert torch.allclose(votes[3], torch.tensor([[1.0, 1 + far, 0.0]]))


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0.0}, {"temperature": math.nan}])
def test_bad_options_are_refused(bad):
    one = (torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="k must be >= 1"):
        knn_accuracy(*one, *one, **bad)


def test_an_empty_side_is_refused():
    one = (torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
    none = (torch.ones(0, 2), torch.zeros(0, dtype=torch.long))
    for sides in ((one, none), (none, one)):
        with pytest.raises(ValueError, match="at least one training and one test image"):
            knn_accuracy(*sides[0], *sides[1])


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images):
        assert not self.training
        return self.norm(images).flatten(1)


def test_features_have_unit_norm_and_leave_the_backbone_as_it_was():
    backbone = Backbone().train()
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    features = extract_features(backbone, images.split(2), mean=(0.5,) * 3, std=(0.2,) * 3,
                                device="cpu")  # fmt: skip
    assert torch.allclose(features.norm(dim=1), torch.ones(5))
    assert backbone.training
    assert int(backbone.norm.num_batches_tracked) == 0
    backbone.norm.eval()  # a frozen part stays frozen
    extract_features(backbone, images.split(2), mean=(0.5,) * 3, std=(0.2,) * 3, device="cpu")
    assert backbone.training
    assert not backbone.norm.training
    with pytest.raises(ValueError, match="no images"):
        extract_features(backbone, [], mean=(0.5,) * 3, std=(0.2,) * 3, device="cpu")
    assert raw_pixel_features(images).shape == (5, 48)
