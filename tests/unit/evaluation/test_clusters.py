"""Clusters against labels, on partitions whose answer is known."""

import builtins

import pytest
import torch

from online_swav.errors import ConfigError
from online_swav.evaluation.clusters import cluster_agreement, k_means
from online_swav.evaluation.features import Features


def test_the_same_partition_under_other_names_agrees_fully():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    found = cluster_agreement(torch.tensor([4, 4, 0, 0, 2, 2]), labels, clusters=8)
    assert (found.nmi, found.ari, found.purity) == (pytest.approx(1), pytest.approx(1), 1.0)
    assert (found.used, found.clusters, found.images) == (3, 8, 6)


def test_purity_is_the_share_of_the_majorities():
    found = cluster_agreement(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 1, 0, 0, 0]),
                              clusters=2)  # fmt: skip
    assert found.purity == pytest.approx(4 / 5)
    assert 0 < found.nmi < 1
    assert dict(found.rows())["purity"] == found.purity


def test_one_cluster_of_everything_agrees_with_nothing():
    found = cluster_agreement(torch.zeros(40, dtype=torch.long), torch.arange(40) % 4, clusters=3)
    assert (found.nmi, found.ari, found.purity, found.used) == (0.0, 0.0, 0.25, 1)


def test_k_means_finds_separate_directions_whatever_the_norm():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.eye(3)[labels] + torch.rand(60, 3, generator=generator) * 0.05
    features *= torch.rand(60, 1, generator=generator) * 9 + 1
    seen = Features(features, labels, torch.arange(60))
    found = k_means(seen, clusters=3, seed=0)
    assert cluster_agreement(found, labels, clusters=3).ari == pytest.approx(1)
    assert torch.equal(found, k_means(seen, clusters=3, seed=0))
    with pytest.raises(ConfigError, match="60 images cannot make 61 clusters"):
        k_means(seen, clusters=61, seed=0)


def test_a_missing_scikit_learn_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    one = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ConfigError, match=r"pip install 'online-swav\[evaluate\]'"):
        cluster_agreement(one, one, clusters=1)
    with pytest.raises(ConfigError, match="scikit-learn"):
        k_means(Features(torch.ones(1, 2), one, one), clusters=1, seed=0)
