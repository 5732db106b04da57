"""What training on labelled images sees of them: random views, in a new order every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchvision.transforms import v2

from online_swav.evaluation.data import LabelledSet
from online_swav.evaluation.left_out import LeftOut
from streams.errors import SampleError


def random_views(
    pictures: Iterable[UInt8[Tensor, "3 _ _"]], *, size: int, seed: int
) -> UInt8[Tensor, "B 3 S S"]:
    """RandomResizedCrop and a flip with torchvision's own ranges, as SwAV's evaluation has them.

    Pictures are asked for one by one: only the one that is cropped is held whole.
    """
    view = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    # torchvision draws from torch's global state on the CPU, which is put back afterwards. Not
    # `torch.manual_seed`: that would seed the generators of GPUs too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        views = [view(picture) for picture in pictures]
    return torch.stack(views) if views else torch.empty(0, 3, size, size, dtype=torch.uint8)


def views_of(
    labelled: LabelledSet, indices: Int64[Tensor, " B"], *, seed: int, left_out: LeftOut
) -> tuple[UInt8[Tensor, "_ 3 S S"], list[int]]:
    """Random views of the pictures at `indices` that decode, and which these are.

    Args:
        labelled: Their set.
        indices: Positions in it.
        seed: Of the draws.
        left_out: Told of the others.
    """
    good: list[int] = []

    def pictures() -> Iterator[Tensor]:
        for index in indices.tolist():
            try:
                picture = labelled.picture(index)
            except SampleError as error:
                left_out.note(index, error)
                continue
            good.append(index)
            yield picture

    return random_views(pictures(), size=labelled.size, seed=seed), good


def shuffled_batches(
    count: int, *, batch: int, seed: int, epoch: int
) -> Iterator[tuple[Int64[Tensor, " B"], int]]:
    """Indices of an epoch's batches, each with a seed for what is drawn in it."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_mixed(seed, epoch)))
    for number, indices in enumerate(order.split(batch)):
        yield indices, _mixed(seed, epoch, number + 1)


def _mixed(*numbers: int) -> int:
    """One seed out of several, the same in every process."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return mixed
