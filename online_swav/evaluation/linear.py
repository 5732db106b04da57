"""The linear probe: classifiers on a frozen trunk, as in the official eval_linear.py.

`OFFICIAL` is its training: 100 epochs, rate 0.3 on a cosine by epoch, batches of 256, momentum 0.9,
weight decay 1e-6; its protocol has augmented views, and test images with `data.OFFICIAL_MARGIN`.
It was found for ResNet-50 at 224 px; `SWEEP` tries a range of rates in the same pass. The rate is
then chosen by the last epoch's figure on the test images, as the official script chooses its best
epoch: with a fixed rate, the last epoch's figure chose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from online_swav.evaluation.data import LabelledSet
from online_swav.evaluation.heads import LinearHeads
from online_swav.evaluation.left_out import LeftOut
from online_swav.evaluation.scoring import Measures, measure
from online_swav.evaluation.trunks import Trunk
from online_swav.evaluation.views import shuffled_batches, views_of

Epochs = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""The batches of an epoch: features [B, F], labels [B] or [B, C]."""
Progress = Callable[[int, Measures], None]
"""Called after every epoch with its number, from 1, and the best head's figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig:
    """How the heads are trained. The defaults are the official script's."""

    epochs: int = 100
    rates: tuple[float, ...] = (0.3,)
    """First learning rates, one head each; they fall on a half cosine by epoch."""
    batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(
                f"epochs and batch must be at least 1, got {self.epochs} and {self.batch}"
            )
        if not self.rates or not all(rate > 0 for rate in self.rates):
            raise ValueError(f"learning rates must be > 0, got {self.rates}")


OFFICIAL = LinearConfig()
SWEEP = LinearConfig(rates=(1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResult:
    """What one rate came to, on the test images."""

    rate: float
    last: Measures
    best: Measures
    """Of the epoch in which the first measure was highest."""
    best_epoch: int
    """From 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearResult:
    """Every head's figures."""

    heads: tuple[HeadResult, ...]

    @property
    def chosen(self) -> HeadResult:
        """Highest in the last epoch, by the first measure; the smallest such rate."""
        return max(self.heads, key=lambda head: (next(iter(head.last.values())), -head.rate))

    def rows(self) -> list[tuple[str, int | float]]:
        """The chosen head's figures, then every rate's."""
        chosen = self.chosen
        rows = [(f"{name}, last epoch", value) for name, value in chosen.last.items()]
        rows += [(f"{name}, best epoch", value) for name, value in chosen.best.items()]
        rows += [("best epoch", chosen.best_epoch), ("learning rate", chosen.rate)]
        if len(self.heads) > 1:
            for head in self.heads:
                name, value = next(iter(head.last.items()))
                rows.append((f"{name}, last epoch, rate {head.rate:g}", value))
        return rows


def cached(
    features: Float[Tensor, "N F"], labels: Shaped[Tensor, "N ..."], config: LinearConfig
) -> Epochs:
    """Features that were extracted once, in a new order every epoch."""

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices, _ in shuffled_batches(
            len(labels), batch=config.batch, seed=config.seed, epoch=epoch
        ):
            yield features[indices], labels[indices]

    return batches


def augmented(trunk: Trunk, train: LabelledSet, config: LinearConfig) -> Epochs:
    """Random views through the frozen trunk, new ones every epoch.

    The iteration raises ConfigError if no image decodes, and warns once of those that do not.
    """
    left_out = LeftOut(train.title, of=len(train))

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices, seed in shuffled_batches(
            len(train), batch=config.batch, seed=config.seed, epoch=epoch
        ):
            views, good = views_of(train, indices, seed=seed, left_out=left_out)
            if good:
                yield trunk(views), train.labels[good]
        if len(left_out) == len(train):
            raise train.none_decodes()
        left_out.tell()

    return batches


def linear_probe(
    epochs: Epochs,
    test_features: Float[Tensor, "M F"],
    test_labels: Shaped[Tensor, "M ..."],
    *,
    classes: int,
    config: LinearConfig,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> LinearResult:
    """Train the heads, and score the test images after every epoch.

    Args:
        epochs: Where the training features come from: `cached` or `augmented`.
        test_features: As the trunk gives them.
        test_labels: Class numbers, or bool [M, C] for several labels.
        classes: C.
        config: How.
        device: Where the heads are trained.
        progress: Told after every epoch.

    Raises:
        ConfigError: As `epochs` does.
    """
    test_features = test_features.to(device)  # once, not for every head and epoch
    heads = LinearHeads(
        rates=config.rates, classes=classes, features=test_features.shape[1],
        momentum=config.momentum, weight_decay=config.weight_decay, seed=config.seed, device=device,
    )  # fmt: skip
    history: list[list[Measures]] = [[] for _ in config.rates]
    for epoch in range(config.epochs):
        scale = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        for features, labels in epochs(epoch):
            heads.step(features.to(device), labels.to(device), scale=scale)
        for head, past in enumerate(history):
            past.append(measure(heads.scores(head, test_features), test_labels))
        if progress is not None:
            progress(epoch + 1, max((past[-1] for past in history), key=_first))
    return LinearResult(
        heads=tuple(
            HeadResult(rate=rate, last=past[-1], best=max(past, key=_first),
                       best_epoch=1 + max(range(len(past)), key=lambda e: _first(past[e])))
            for rate, past in zip(config.rates, history, strict=True)
        )
    )  # fmt: skip


def _first(measures: Measures) -> float:
    return next(iter(measures.values()))
