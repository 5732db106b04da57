"""Weighted k-nearest neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def knn_accuracy(
    train_features: Float[Tensor, "N F"],
    train_labels: Int64[Tensor, " N"],
    test_features: Float[Tensor, "M F"],
    test_labels: Int64[Tensor, " M"],
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> float:
    """Top-1 accuracy in [0, 1]; each of the k nearest votes with exp(cosine / temperature).

    Args:
        train_features: Of unit norm.
        train_labels: From 0.
        test_features: Of unit norm.
        test_labels: From 0.
        k: Neighbours; all N when there are fewer.
        temperature: Smaller trusts near neighbours more.
        chunk: Test rows compared at once; bounds the memory at chunk x N.

    Raises:
        ValueError: If k < 1, temperature <= 0, or a side is empty.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be >= 1 and temperature > 0, got {k} and {temperature}")
    if not len(train_labels) or not len(test_labels):
        raise ValueError("k-NN needs at least one training and one test image")
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    right = 0
    for features, labels in zip(test_features.split(chunk), test_labels.split(chunk), strict=True):
        similarity, index = (features @ train_features.T).topk(min(k, len(train_labels)), dim=1)
        votes = torch.zeros(len(labels), classes)
        # Relative to the nearest one: the same winner, and no overflow at a small temperature.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes.scatter_add_(1, train_labels[index], weights)
        right += int((votes.argmax(dim=1) == labels).sum())
    return right / len(test_labels)
