"""What a frozen backbone sees in images."""

from __future__ import annotations

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
from online_swav.evaluation.left_out import LeftOut, tell_left_out
from online_swav.evaluation.trunks import Trunk

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
        cache: Folder in which features are kept, and looked for first. They are not kept while
            the file of an image cannot be read: it may come back.
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
    identity = f"{trunk.identity} scores {trunk.score_identity}"
    return _seen(trunk.score, data, identity, f"{trunk.name} gives scores",
                 cache=cache, batch_size=batch_size, advance=advance)  # fmt: skip


def _seen(
    see: Callable[[Tensor], Tensor], data: LabelledSet, identity: str, words: str, *,
    cache: Path | None, batch_size: int, advance: Advance,
) -> Features:  # fmt: skip
    kept = FeatureCache(cache) if cache is not None else None
    key = f"{identity} {data.digest} {data.size} {data.short_side}"
    found = kept.get(key) if kept is not None else None
    if found is not None:
        advance(len(data))
        if len(found[1]) < len(data):
            tell_left_out(len(data) - len(found[1]), of=len(data), title=data.title,
                          why="they do not decode")  # fmt: skip
    else:
        left_out = LeftOut(data.title, of=len(data))
        found = _made(see, data, left_out, batch_size=batch_size, advance=advance)
        if not found[0].isfinite().all():
            raise ConfigError(f"{words} that are not finite; take an earlier checkpoint")
        if kept is not None and not left_out.unread:
            kept.put(key, *found)
        left_out.tell()
    return Features(features=found[0], labels=data.labels[found[1]], indices=found[1])


def _made(
    see: Callable[[Tensor], Tensor], data: LabelledSet, left_out: LeftOut, *, batch_size: int,
    advance: Advance,
) -> tuple[Float[Tensor, "N F"], Int64[Tensor, " N"]]:  # fmt: skip
    """Features and positions; written where they stay, for a large set fills half a memory."""
    features = torch.empty(0)
    indices: list[int] = []
    for part in data.squares(batch_size=batch_size, left_out=left_out):
        seen = see(part.images)
        if not indices:
            features = torch.empty(len(data), seen.shape[1])
        features[len(indices) : len(indices) + len(seen)] = seen
        indices += part.indices.tolist()
        advance(len(seen))
    if not indices:
        raise data.none_decodes()
    return features[: len(indices)], torch.tensor(indices)


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
    """Centred pixels of unit norm, every one of them: what the demo compares its probe with.

    `evaluate` has the trunk `pixels`, which is pooled and normalised per channel.
    """
    flat = images.flatten(1).float()
    return F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)
