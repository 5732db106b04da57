"""What the encoder is worth on another labelled data set: a linear probe and k-NN.

One label for each image is judged by accuracy, several by mean average precision, as VOC 2007 is.
Its published figures come from linear SVMs; the probe here is a logistic loss per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from online_swav.evaluation.features import Features
from online_swav.evaluation.knn import (
    KS,
    TEMPERATURE,
    evaluate_knn,
    neighbour_votes,
    neighbours_in_words,
)
from online_swav.evaluation.linear import LinearConfig, LinearResult, Progress, cached, linear_probe
from online_swav.evaluation.scoring import mean_average_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResult:
    """Both ways to ask."""

    linear: LinearResult
    neighbours: tuple[tuple[str, float], ...]
    """Name and value of the k-NN figures."""

    def rows(self) -> list[tuple[str, int | float]]:
        """The probe's rows, then those of k-NN."""
        linear = [(f"linear {name}", value) for name, value in self.linear.rows()]
        return linear + [(f"k-NN {name}", value) for name, value in self.neighbours]


def transfer(
    train: Features,
    test: Features,
    *,
    classes: int,
    config: LinearConfig,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> TransferResult:
    """Judge frozen features of another data set.

    Args:
        train: Of its training images.
        test: Of its test images.
        classes: C.
        config: Of the linear probe.
        ks: Numbers of neighbours.
        temperature: Of the neighbours' votes.
        device: Where both are computed.
        progress: Told after every epoch of the probe.

    Raises:
        ConfigError: If images have several labels, and scikit-learn is missing or no test image
            has any label.
    """
    linear = linear_probe(
        cached(train.features, train.labels, config), test.features, test.labels,
        classes=classes, config=config, device=device, progress=progress,
    )  # fmt: skip
    if train.labels.ndim == 1:
        found = evaluate_knn(
            train, test, num_classes=classes, ks=ks, temperature=temperature, device=device
        ).rows()
    else:
        found = [
            (f"{name}, {neighbours_in_words(k, len(train.labels))}", value)
            for k, shares in _vote_shares(train, test, ks, temperature, device).items()
            for name, value in mean_average_precision(shares, test.labels).items()
        ]
    return TransferResult(linear=linear, neighbours=tuple(found))


def _vote_shares(
    train: Features, test: Features, ks: Sequence[int], temperature: float,
    device: torch.device | str,
) -> dict[int, Tensor]:  # fmt: skip
    """Share of each image's votes that a class has, by k: comparable between images."""
    labels: Bool[Tensor, "N C1"] = torch.nn.functional.pad(train.labels, (0, 1), value=True)
    parts = list(neighbour_votes(
        train.unit, labels, test.unit, num_classes=labels.shape[1], ks=ks,
        temperature=temperature, device=device,
    ))  # fmt: skip
    votes = {k: torch.cat([part[k] for part in parts]) for k in ks}
    # Every neighbour votes for the last column: the sum of the weights.
    return {k: of_k[:, :-1] / of_k[:, -1:] for k, of_k in votes.items()}
