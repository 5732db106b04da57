"""What a frozen backbone sees in images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from online_swav.errors import ConfigError
from online_swav.evaluation.data import LabelledSet
from online_swav.evaluation.feature_cache import FeatureCache
from online_swav.evaluation.trunks import Trunk

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features of a labelled set, as the backbone gives them (of any norm)."""

    features: Float[Tensor, "N F"]
    labels: Shaped[Tensor, N * C]
    indices: Int64[Tensor, " N"]
    """Positions in the set: what does not decode is missing."""

    @property
    def unit(self) -> Float[Tensor, "N F"]:
        """Of unit norm."""
        return F.normalize(self.features, dim=1)


def features_of(
    trunk: Trunk,
    data: LabelledSet,
    *,
    cache: Path | None = None,
    batch_size: int = 256,
    advance: Advance = lambda _images: None,
) -> Features:
    """Features of all images of a set that decode.

    Args:
        trunk: What sees them.
        data: The images.
        cache: Folder in which features are kept, and looked for first.
        batch_size: Images at once.
        advance: Told after each batch how many images it had.

    Raises:
        ConfigError: If no image decodes, the features are not finite, or the cache cannot be
            written.
    """
    return _seen(trunk, data, trunk.identity, f"{trunk.name} gives features", cache=cache,
                 batch_size=batch_size, advance=advance)  # fmt: skip


def scores_of(
    trunk: Trunk,
    data: LabelledSet,
    *,
    cache: Path | None = None,
    batch_size: int = 256,
    advance: Advance = lambda _images: None,
) -> Features:
    """Cosines to the prototypes in place of features; see `features_of`.

    Raises:
        ConfigError: As `features_of`, or if the trunk has no prototypes.
    """
    if trunk.score is None:
        raise ConfigError(f"{trunk.name} has no prototypes; give a run or one of its checkpoints")
    return _seen(trunk.score, data, f"{trunk.identity} scores", f"{trunk.name} gives scores",
                 cache=cache, batch_size=batch_size, advance=advance)  # fmt: skip


def _seen(
    see: Callable[[Tensor], Tensor], data: LabelledSet, identity: str, words: str, *,
    cache: Path | None, batch_size: int, advance: Advance,
) -> Features:  # fmt: skip
    kept = FeatureCache(cache) if cache is not None else None
    key = f"{identity} {data.digest} {data.size}"
    found = kept.get(key) if kept is not None else None
    if found is not None:
        advance(len(data))
    else:
        features, indices = [], []
        for part in data.squares(batch_size=batch_size):
            features.append(see(part.images))
            indices.append(part.indices)
            advance(len(part.indices))
        if not features:
            raise data.none_decodes()
        found = torch.cat(features), torch.cat(indices)
        if not found[0].isfinite().all():
            raise ConfigError(f"{words} that are not finite; take an earlier checkpoint")
        if kept is not None:
            kept.put(key, *found)
    if len(found[1]) < len(data):
        logger.warning("images_left_out=%d of=%d in=%s: they do not decode",
                       len(data) - len(found[1]), len(data), data.title)  # fmt: skip
    return Features(features=found[0], labels=data.labels[found[1]], indices=found[1])


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
