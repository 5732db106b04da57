"""Labelled images and what a frozen backbone sees in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import SampleError, StreamError
from streams.reader import RawSample, ShardReader
from streams.shard import Shard
from streams.sources import DirectorySource, describe_missing


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images as the probe shows them to a backbone."""

    images: UInt8[Tensor, "N 3 S S"]
    labels: Int64[Tensor, " N"]


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Iterable[UInt8[Tensor, "_ 3 S S"]],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device | str,
) -> Float[Tensor, "N F"]:
    """Features of unit norm, in evaluation mode; the mode of every module is restored afterwards.

    Raises:
        ValueError: If there are no images.
    """
    # Module by module: `backbone.train()` would also wake a part that is kept in evaluation mode.
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    shift = torch.tensor(mean, device=device).view(3, 1, 1)
    scale = torch.tensor(std, device=device).view(3, 1, 1)
    try:
        features = [
            F.normalize(backbone((part.to(device).float() / 255 - shift) / scale).float(), dim=1)
            for part in images
        ]
    finally:
        for module in training:
            module.training = True
    if not features:
        raise ValueError("no images to extract features from")
    return torch.cat(features).cpu()


def raw_pixel_features(images: UInt8[Tensor, "N 3 S S"]) -> Float[Tensor, "N F"]:
    """Centred pixels of unit norm: the baseline that any encoder must beat."""
    flat = images.flatten(1).float()
    return F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def load_labelled(
    patterns: Sequence[str], *, size: int, limit: int | None, limits: LimitsConfig
) -> LabelledImages:
    """Labelled images of shards: short side resized to `size`, central square.

    With a limit every shard gives its first `limit / number of shards` images, so that all shards
    are heard; shards are expected to be shuffled over the classes.

    Patterns may overlap: a shard is read once.

    Raises:
        ValueError: If a pattern matches no shard, a shard cannot be read, no image has a label, or
            `limit` < 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    shards = list({shard.url: shard for p in patterns for shard in _shards(p)}.values())
    images: list[Tensor] = []
    labels: list[int] = []
    unlabelled = 0
    for number, shard in enumerate(shards):
        # What is left is shared evenly by the shards that are left.
        quota = None if limit is None else -(-(limit - len(images)) // (len(shards) - number))
        taken = 0
        try:
            for sample in ShardReader(shard, limits=limits):
                if quota is not None and taken >= quota:
                    break
                if not isinstance(sample, RawSample):
                    continue
                if sample.label is None:
                    unlabelled += 1
                    continue
                try:
                    image = decode_image(sample.image, limits)
                except SampleError:
                    continue
                images.append(_central_square(torch.from_numpy(image).permute(2, 0, 1), size))
                labels.append(sample.label)
                taken += 1
        except StreamError as error:
            raise ValueError(f"{shard.url}: {error}") from error
    if not images:
        raise ValueError(
            f"no labelled image in {', '.join(patterns)} ({len(shards)} shards, {unlabelled} "
            "images without a label); a label is a member KEY.cls beside KEY.jpg"
        )
    return LabelledImages(images=torch.stack(images), labels=torch.tensor(labels))


def _shards(pattern: str) -> list[Shard]:
    missing = describe_missing(pattern)
    if missing:
        raise ValueError(missing)
    source = DirectorySource("probe", pattern, settle_s=0.0)
    source.poll()  # an unfinished look needs a second one
    shards = source.poll()
    if not shards:
        raise ValueError(f"{pattern} matches no shard (looked for .tar files)")
    return sorted(shards, key=lambda shard: shard.url)


def _central_square(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 S S"]:
    """Antialiased resize of the short side, then the central square."""
    resized: Tensor = transforms.resize(image, [size], antialias=True)
    square: Tensor = transforms.center_crop(resized, [size, size])
    return square
