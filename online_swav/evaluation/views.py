"""What training on labelled images sees of them: random views, in a new order every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchvision.transforms import v2

from online_swav.evaluation.data import LabelledSet
from streams.errors import SampleError


def random_views(
    pictures: Sequence[UInt8[Tensor, "3 _ _"]], *, size: int, seed: int
) -> UInt8[Tensor, "B 3 S S"]:
    """RandomResizedCrop and a flip with torchvision's own ranges, as SwAV's evaluation has them."""
    view = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    # torchvision draws from torch's global state: ours is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([view(picture) for picture in pictures])


def readable(
    labelled: LabelledSet, indices: Int64[Tensor, " B"]
) -> tuple[list[UInt8[Tensor, "3 _ _"]], list[int]]:
    """The whole pictures at `indices` that decode, and which these are."""
    pictures, good = [], []
    for index in indices.tolist():
        try:
            pictures.append(labelled.picture(index))
        except SampleError:
            continue
        good.append(index)
    return pictures, good


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
