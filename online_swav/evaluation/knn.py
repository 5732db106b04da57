"""Weighted k-nearest neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from online_swav.evaluation.features import Features

KS = (1, 5, 10, 20, 200)
TEMPERATURE = 0.07


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnAccuracy:
    """Accuracy in [0, 1] with one number of neighbours."""

    k: int
    top1: float
    top5: float
    """The right class is among the five with the most votes, and has a vote. Of equal votes the
    lower class goes first, as for top-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnResult:
    """Accuracy with several numbers of neighbours."""

    accuracies: tuple[KnnAccuracy, ...]
    train_images: int
    test_images: int

    def rows(self) -> list[tuple[str, int | float]]:
        """See `result.Result`."""
        return [
            *((f"top-1, {self._words(one)}", one.top1) for one in self.accuracies),
            *((f"top-5, {self._words(one)}", one.top5) for one in self.accuracies),
        ]

    def _words(self, one: KnnAccuracy) -> str:
        return neighbours_in_words(one.k, self.train_images)


def neighbours_in_words(k: int, images: int) -> str:
    """Such as `k 20`; where there are fewer images, how many voted."""
    return f"k {k}" if k <= images else f"k {k} (all {images})"


def evaluate_knn(
    train: Features,
    test: Features,
    *,
    num_classes: int,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
) -> KnnResult:
    """k-NN accuracy for every k, in one pass over the pairs.

    Args:
        train: The neighbours; one label for each image.
        test: What is classified.
        num_classes: C.
        ks: Numbers of neighbours; all N when there are fewer.
        temperature: Smaller trusts near neighbours more.
        device: Where the pairs are compared.

    Raises:
        ValueError: As `neighbour_votes`.
    """
    right = {k: [0, 0] for k in ks}
    at = 0
    for votes in neighbour_votes(train.unit, train.labels, test.unit, num_classes=num_classes,
                                 ks=ks, temperature=temperature, device=device):  # fmt: skip
        rows = len(votes[ks[0]])
        labels = test.labels[at : at + rows]
        for k in ks:
            first, fifth = _right(votes[k], labels)
            right[k][0] += first
            right[k][1] += fifth
        at += rows
    count = len(test.labels)
    accuracies = [KnnAccuracy(k=k, top1=right[k][0] / count, top5=right[k][1] / count) for k in ks]
    return KnnResult(accuracies=tuple(accuracies), train_images=len(train.labels),
                     test_images=count)  # fmt: skip


def knn_accuracy(
    train_features: Float[Tensor, "N F"],
    train_labels: Int64[Tensor, " N"],
    test_features: Float[Tensor, "M F"],
    test_labels: Int64[Tensor, " M"],
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
    chunk: int = 2048,
) -> float:
    """Top-1 accuracy in [0, 1]; each of the k nearest votes with exp(cosine / temperature).

    Args:
        train_features: Of unit norm.
        train_labels: From 0.
        test_features: Of unit norm.
        test_labels: From 0.
        k: Neighbours; all N when there are fewer.
        temperature: Smaller trusts near neighbours more.
        chunk: As in `neighbour_votes`.

    Raises:
        ValueError: As `neighbour_votes`.
    """
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1 if len(train_labels) else 1
    winners = [
        votes[k].argmax(dim=1)
        for votes in neighbour_votes(train_features, train_labels, test_features, ks=(k,),
                                     num_classes=classes, temperature=temperature, chunk=chunk)
    ]  # fmt: skip
    return float((torch.cat(winners) == test_labels).float().mean())


def neighbour_votes(
    train_features: Float[Tensor, "N F"],
    train_labels: Shaped[Tensor, N * C],
    test_features: Float[Tensor, "M F"],
    *,
    num_classes: int,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    chunk: int = 2048,
    device: torch.device | str = "cpu",
) -> Iterator[dict[int, Float[Tensor, "B C"]]]:
    """Votes for the classes, for consecutive rows of the test side: those of each k.

    The largest k neighbours are found once; a smaller k takes the first of them. A neighbour
    votes for all its labels.

    Args:
        train_features: Of unit norm.
        train_labels: Int64 [N], or bool [N, C] where an image may have several.
        test_features: Of unit norm.
        num_classes: C.
        ks: Numbers of neighbours; all N when there are fewer.
        temperature: A vote weighs exp(cosine / temperature).
        chunk: Rows of either side compared at once; bounds the memory at chunk x chunk.
        device: Where they are compared; votes are on the CPU.

    Raises:
        ValueError: If a k < 1, temperature is not > 0, or a side is empty.
    """
    if not ks or min(ks) < 1 or not temperature > 0:
        shown = ", ".join(str(k) for k in ks)
        raise ValueError(f"k must be >= 1 and temperature > 0, got {shown} and {temperature}")
    if not len(train_features) or not len(test_features):
        raise ValueError("k-NN needs at least one training and one test image")
    for rows in test_features.split(chunk):
        similarity, index = _nearest(rows.to(device), train_features, k=max(ks), chunk=chunk)
        # Relative to the nearest one: the same winner, and no overflow at a small temperature.
        weights = ((similarity - similarity[:, :1]) / temperature).exp().cpu()
        index = index.cpu()
        votes = torch.zeros(len(rows), num_classes)
        found: dict[int, Tensor] = {}
        done = 0
        for k in sorted(ks):
            new = slice(done, k)
            _add_votes(votes, train_labels, index[:, new], weights[:, new])
            done = k
            found[k] = votes.clone()
        yield found


def _nearest(
    rows: Float[Tensor, "B F"], train_features: Float[Tensor, "N F"], *, k: int, chunk: int
) -> tuple[Float[Tensor, "B k"], Int64[Tensor, "B k"]]:
    """Cosine and index of the nearest ones, nearest first; B x chunk pairs at once."""
    best = torch.empty(len(rows), 0, device=rows.device)
    index = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
    for number, part in enumerate(train_features.split(chunk)):
        similarity = rows @ part.to(rows.device).T
        top, at = similarity.topk(min(k, len(part)), dim=1)
        merged = torch.cat([best, top], dim=1)
        indices = torch.cat([index, at + number * chunk], dim=1)
        best, kept = merged.topk(min(k, merged.shape[1]), dim=1)
        index = indices.gather(1, kept)
    return best, index


def _add_votes(
    votes: Float[Tensor, "B C"],
    labels: Shaped[Tensor, N * C],
    index: Int64[Tensor, "B n"],
    weights: Float[Tensor, "B n"],
) -> None:
    """Add the votes of some neighbours, in place."""
    if labels.ndim == 1:
        votes.scatter_add_(1, labels[index], weights)
        return
    for neighbour, weight in zip(index.T, weights.T, strict=True):  # never all of them times C
        votes += weight[:, None] * labels[neighbour]


def _right(votes: Float[Tensor, "B C"], labels: Int64[Tensor, " B"]) -> tuple[int, int]:
    """Rows whose class wins, and rows whose class is among the five first."""
    own = votes.gather(1, labels[:, None])
    lower = torch.arange(votes.shape[1]) < labels[:, None]
    ahead = ((votes > own) | ((votes == own) & lower)).sum(dim=1)
    fifth = (ahead < 5) & (own[:, 0] > 0)
    return int((ahead == 0).sum()), int(fifth.sum())
