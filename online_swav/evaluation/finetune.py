"""Fine-tuning on a few labels: trunk and head together, as in the official eval_semisup.py.

`OFFICIAL` has its two settings, for 1% and 10% of ImageNet's labels: 20 epochs, batches of 256, no
weight decay, both rates times 0.2 after epochs 12 and 16; they differ in the rates. On a data set
with fewer images an epoch has fewer steps, and the rates may want more epochs or smaller batches.
The official script's test images have `data.OFFICIAL_MARGIN`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_swav.errors import ConfigError
from online_swav.evaluation.data import LabelledSet
from online_swav.evaluation.left_out import LeftOut
from online_swav.evaluation.scoring import Measures, measure
from online_swav.evaluation.trunks import Trunk
from online_swav.evaluation.views import shuffled_batches, views_of

_HELD_BYTES = 2**30
"""Test images are decoded once if they need no more than this; else at every epoch."""

Progress = Callable[[int, float, Measures], None]
"""Called after every epoch: its number from 1, the mean training loss, the test figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """How trunk and head are trained, by SGD."""

    fraction: float
    """Share of the labels, per class; ignored where a list is given."""
    trunk_rate: float
    head_rate: float
    epochs: int = 20
    decay_epochs: tuple[int, ...] = (12, 16)
    """After each of these epochs both rates are multiplied by `decay`."""
    decay: float = 0.2
    batch: int = 256
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise ValueError(
                f"epochs must be at least 1 and batch at least 2 (batch norm), got {self.epochs} "
                f"and {self.batch}"
            )
        if not self.trunk_rate >= 0 or not self.head_rate > 0:
            raise ValueError(
                "the trunk's rate must be at least 0 and the head's above 0, got "
                f"{self.trunk_rate:g} and {self.head_rate:g}"
            )

    def stretched(self, epochs: int) -> FinetuneConfig:
        """The same schedule over another number of epochs."""
        moved = tuple(round(epoch * epochs / self.epochs) for epoch in self.decay_epochs)
        return dataclasses.replace(self, epochs=epochs, decay_epochs=moved)


OFFICIAL = {
    "1": FinetuneConfig(fraction=0.01, trunk_rate=0.02, head_rate=5.0),
    "10": FinetuneConfig(fraction=0.1, trunk_rate=0.01, head_rate=0.2),
}
"""By per cent of the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """What fine-tuning on some labels came to, on the test images."""

    images: int
    """Labelled images trained on; what does not decode is none."""
    steps: int
    last: Measures
    best: Measures
    """Of the epoch in which the first measure was highest."""
    best_epoch: int
    """From 1."""
    losses: tuple[float, ...]
    """Mean training loss of every epoch."""

    def rows(self) -> list[tuple[str, int | float]]:
        """Last and best, and how much went into it."""
        rows = [(f"{name}, last epoch", value) for name, value in self.last.items()]
        rows += [(f"{name}, best epoch", value) for name, value in self.best.items()]
        return [
            *rows, ("best epoch", self.best_epoch),
            ("labelled images", self.images), ("steps", self.steps),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResults:
    """Fine-tuning on several parts of the labels."""

    parts: tuple[tuple[str, FinetuneResult], ...]
    """Each with its words for a table, such as 10%."""

    def rows(self) -> list[tuple[str, int | float]]:
        """The rows of every part, in turn."""
        return [
            (f"{words}: {name}", value) for words, part in self.parts for name, value in part.rows()
        ]


def finetune(
    trunk: Trunk,
    train: LabelledSet,
    test: LabelledSet,
    *,
    config: FinetuneConfig,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a copy of the trunk with a new linear head on all of `train`; score it on `test`.

    Args:
        trunk: Stays as it is.
        train: The few labelled images, see `subsets`.
        test: Scored after every epoch.
        config: How.
        progress: Told after every epoch.

    Images of either side that do not decode are warned of.

    Raises:
        ConfigError: If there are fewer than two training images, an image has several labels, the
            trunk has nothing to train, or no image of a side decodes.
    """
    if len(train) < 2:
        raise ConfigError(f"fine-tuning needs at least two labelled images, got {len(train)}")
    if train.multi_label:
        raise ConfigError("fine-tuning needs one label for each image; `transfer` takes several")
    if not trainable(trunk):
        raise ConfigError(f"{trunk.name} has no weights to fine-tune")
    # The head's first weights, and what the trunk draws (stochastic depth).
    with torch.random.fork_rng(devices=[trunk.device] if trunk.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        return _finetuned(trunk, train, test, config, progress)


def trainable(trunk: Trunk) -> bool:
    """Whether it has weights; raw pixels have none."""
    return any(True for _ in trunk.backbone.parameters())


def _finetuned(
    trunk: Trunk, train: LabelledSet, test: LabelledSet, config: FinetuneConfig,
    progress: Progress | None,
) -> FinetuneResult:  # fmt: skip
    backbone = copy.deepcopy(trunk.backbone).requires_grad_(True)
    width = trunk(torch.zeros(1, 3, train.size, train.size, dtype=torch.uint8)).shape[1]
    head = nn.Linear(width, train.num_classes).to(trunk.device)
    optimizer = torch.optim.SGD(
        [{"params": backbone.parameters(), "lr": config.trunk_rate},
         {"params": head.parameters(), "lr": config.head_rate}],
        momentum=config.momentum, weight_decay=0.0,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, list(config.decay_epochs), gamma=config.decay
    )
    model = nn.Sequential(backbone, head)
    look = _looks(test)
    used: set[int] = set()
    left_out = LeftOut(train.title, of=len(train))
    past: list[Measures] = []
    losses: list[float] = []
    steps = 0
    for epoch in range(config.epochs):
        model.train()
        heard = []
        for views, indices in _batches(train, config, epoch, left_out):
            labels = train.labels[indices].to(trunk.device)
            loss = F.cross_entropy(model(trunk.normalized(views)).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            heard.append(loss.detach())
            used.update(indices)
        if not heard:
            raise ConfigError(f"no two of the {len(train)} labelled images can be decoded")
        left_out.tell()
        schedule.step()
        steps += len(heard)
        losses.append(float(torch.stack(heard).mean()))
        past.append(_test(model, trunk, look()))
        if progress is not None:
            progress(epoch + 1, losses[-1], past[-1])
    best = max(range(len(past)), key=lambda e: past[e]["top-1"])
    return FinetuneResult(
        images=len(used), steps=steps, last=past[-1], best=past[best], best_epoch=best + 1,
        losses=tuple(losses),
    )  # fmt: skip


def _batches(
    train: LabelledSet, config: FinetuneConfig, epoch: int, left_out: LeftOut
) -> Iterator[tuple[Tensor, list[int]]]:
    """Random views, with indices. A batch of one has no statistics for batch norm: left out."""
    for indices, seed in shuffled_batches(
        len(train), batch=config.batch, seed=config.seed, epoch=epoch
    ):
        views, good = views_of(train, indices, seed=seed, left_out=left_out)
        if len(good) > 1:
            yield views, good


def _looks(test: LabelledSet) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Begins a pass over the test images with their labels; the first one warns."""
    if len(test) * 3 * test.size**2 > _HELD_BYTES:
        left_out = LeftOut(test.title, of=len(test))

        def decoded() -> Iterator[tuple[Tensor, Tensor]]:
            for part in test.squares(left_out=left_out):
                yield part.images, test.labels[part.indices]
            if len(left_out) == len(test):
                raise test.none_decodes()
            left_out.tell()

        return decoded
    held = test.held()
    return lambda: zip(held.images.split(256), held.labels.split(256), strict=True)


@torch.no_grad()
def _test(model: nn.Module, trunk: Trunk, look: Iterator[tuple[Tensor, Tensor]]) -> Measures:
    model.eval()
    scores, truth = [], []
    for images, labels in look:
        scores.append(model(trunk.normalized(images)).float().cpu())
        truth.append(labels)
    return measure(torch.cat(scores), torch.cat(truth))
