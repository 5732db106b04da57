"""k-NN against a reference in float64, and labelled images from shards."""

import numpy as np
import pytest
import torch
from torch import nn

from online_swav.evaluation.features import extract_features, load_labelled, raw_pixel_features
from online_swav.evaluation.knn import knn_accuracy
from streams.config import LimitsConfig
from streams.testing import write_test_shards


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


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0.0}])
def test_bad_options_are_refused(bad):
    one = (torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="k must be >= 1"):
        knn_accuracy(*one, *one, **bad)


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


def test_labelled_images_come_from_all_shards(tmp_path):
    write_test_shards(tmp_path, shards=3, samples_per_shard=6, seed=0, labels=lambda i: i % 2)
    images = load_labelled([str(tmp_path)], size=16, limit=7, limits=LimitsConfig())
    assert images.images.shape == (7, 3, 16, 16)
    assert set(images.labels.tolist()) <= {0, 1}
    assert len(load_labelled([str(tmp_path)], size=16, limit=None,
                             limits=LimitsConfig()).labels) == 18  # fmt: skip
    overlapping = [str(tmp_path), str(tmp_path / "*.tar")]
    assert len(load_labelled(overlapping, size=16, limit=None,
                             limits=LimitsConfig()).labels) == 18  # fmt: skip
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load_labelled([str(tmp_path)], size=16, limit=0, limits=LimitsConfig())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_labelled([str(tmp_path / "no")], size=16, limit=None, limits=LimitsConfig())
    with pytest.raises(ValueError, match="matches no shard"):
        load_labelled([str(tmp_path)], size=16, limit=None, limits=LimitsConfig())
    write_test_shards(tmp_path, shards=1, samples_per_shard=3, seed=0, labels=None)
    with pytest.raises(ValueError, match="3 images without a label"):
        load_labelled([str(tmp_path)], size=16, limit=None, limits=LimitsConfig())
