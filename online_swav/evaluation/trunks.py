"""What can be judged: an encoder of ours, random weights, a torchvision model, raw pixels.

Words for a trunk (`--trunk`; the first form also `--run`):

    PATH                            a run, a checkpoint, a published folder, a file with its card
    torchvision:NAME                a torchvision model with random weights
    torchvision:NAME:FILE           and with the weights of a .pth or .safetensors file
    random                          random weights of the same backbone as the run's
    pixels                          no model at all, pixels of at most 32 x 32 regions: the
                                    baseline that any encoder must beat
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.learning.model import build_backbone
from online_swav.weights import fit, misfits_in_words, read_weights

RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
RANDOM, PIXELS, TORCHVISION = "random", "pixels", "torchvision"
_PIXELS_SIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trunk:
    """A frozen feature extractor in evaluation mode.

    Takes squares of any size and never resizes them: the size is the protocol's choice.
    """

    name: str
    """Short words for tables."""
    backbone: nn.Module
    """Normalized float [N, 3, S, S] to features [N, F], on `device`. Train a copy, never this."""
    device: torch.device
    mean: RGB
    std: RGB
    identity: str
    """Names exactly these weights and this normalization: the key of cached features."""
    size: int | None = None
    """Side of the images it was made for, in pixels; None if it has no opinion."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For people: step, backbone, samples seen."""
    prototypes: int | None = None
    """K; None without any."""
    score: Callable[[UInt8[Tensor, "N 3 S S"]], Float[Tensor, "N K"]] | None = None
    """Cosines to the prototypes, on the CPU, of pictures at `size`; None without prototypes."""
    score_identity: str | None = None
    """Names exactly this head and these prototypes; None without prototypes."""

    def normalized(self, images: UInt8[Tensor, "N 3 S S"]) -> Float[Tensor, "N 3 S S"]:
        """What the backbone takes, on `device`."""
        shift, scale = (
            torch.tensor(rgb, device=self.device).view(3, 1, 1) for rgb in (self.mean, self.std)
        )
        return (images.to(self.device).float() / 255 - shift) / scale

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "N 3 S S"]) -> Float[Tensor, "N F"]:
        """Features as the backbone gives them (of any norm), float32 on the CPU."""
        features: Tensor = self.backbone(self.normalized(images))
        return features.float().cpu()


class _CentredPixels(nn.Module):
    """Each image minus its own mean; larger ones as the means of 32 x 32 regions.

    At 224 px raw pixels would be 150,528 numbers for each image.
    """

    def forward(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N F"]:
        if images.shape[-1] > _PIXELS_SIDE:
            images = F.adaptive_avg_pool2d(images, _PIXELS_SIDE)
        flat = images.flatten(1)
        return flat - flat.mean(dim=1, keepdim=True)


def trunk_from(
    spec: str, *, like: Trunk | None = None, seed: int = 0, device: torch.device | str = "cpu"
) -> Trunk:
    """The trunk that the words name (see above).

    Args:
        spec: The words.
        like: The trunk of the run, for `random`: its backbone and normalization.
        seed: Of random weights.
        device: Where it runs.

    Raises:
        ConfigError: If there is no such thing, or it is damaged; with what to do.
    """
    device = torch.device(device)
    kind, colon, rest = spec.partition(":")
    if kind == TORCHVISION and colon:
        return _torchvision(rest, seed=seed, device=device)
    if spec == PIXELS:
        return _trunk("raw pixels", _CentredPixels(), device)
    if spec == RANDOM:
        return _random(like, seed=seed, device=device)
    if not Path(spec).exists():
        raise ConfigError(
            f"there is nothing at {spec}; a trunk is a run folder, a published or checkpoint "
            "folder, a .safetensors or .pth file, torchvision:NAME[:FILE], random, or pixels"
        )
    return _encoder(Encoder.load(spec, device=device), device)


def _encoder(encoder: Encoder, device: torch.device) -> Trunk:
    told, card = encoder.card["preprocessing"], encoder.card
    size = int(told["size"])

    def score(images: UInt8[Tensor, "N 3 S S"]) -> Float[Tensor, "N K"]:
        scores = encoder.scores(images)
        assert scores is not None
        return scores

    facts = {name: card[name] for name in ("backbone", "small_stem", "step", "samples_seen")
             if name in card}  # fmt: skip
    return _trunk(
        encoder.name,
        encoder.backbone,
        device,
        mean=_rgb(told["mean"]),
        std=_rgb(told["std"]),
        size=size,
        facts=facts | {"path": str(encoder.place)},
        prototypes=encoder.num_prototypes,
        score=None if encoder.num_prototypes is None else score,
        score_identity=(
            None if encoder.num_prototypes is None else _digest(encoder.weights.head, size)
        ),
    )


def _random(like: Trunk | None, *, seed: int, device: torch.device) -> Trunk:
    if like is None or "backbone" not in like.facts:
        raise ConfigError(
            "the trunk `random` has the backbone of the first trunk, which has to be an encoder; "
            "or name a model: torchvision:resnet18"
        )
    name, small_stem = str(like.facts["backbone"]), bool(like.facts.get("small_stem", False))
    return _trunk(
        "random weights",
        _built(name, small_stem=small_stem, seed=seed),
        device,
        mean=like.mean,
        std=like.std,
        size=like.size,
        facts={"backbone": name, "small_stem": small_stem, "seed": seed},
    )


def _torchvision(words: str, *, seed: int, device: torch.device) -> Trunk:
    name, _, file = words.partition(":")
    try:
        built = _built(name, small_stem=False, seed=seed)
    except ValueError as error:
        raise ConfigError(f"torchvision:{words}: {error}") from error
    facts: dict[str, Any] = {"backbone": name}
    if file:
        _load(built, name, file)
        facts["path"] = file
    else:
        facts["seed"] = seed
    title = f"{name} of {Path(file).name}" if file else f"{name}, random weights"
    return _trunk(title, built, device, size=224, facts=facts)


def _built(name: str, *, small_stem: bool, seed: int) -> nn.Module:
    # Drawn on the CPU; `torch.manual_seed` would seed the generators of GPUs too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_backbone(name, small_stem=small_stem)[0]


def _load(backbone: nn.Module, name: str, file: str) -> None:
    """Put a file's weights into the backbone; a classifier in the file is passed over."""
    taken, misfits = fit(backbone.state_dict(), read_weights(file).backbone)
    if misfits:
        raise ConfigError(f"{file} does not fit torchvision's {name}: {misfits_in_words(misfits)}")
    backbone.load_state_dict(taken)


def _trunk(
    name: str,
    backbone: nn.Module,
    device: torch.device,
    *,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
    size: int | None = None,
    facts: dict[str, Any] | None = None,
    prototypes: int | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    score_identity: str | None = None,
) -> Trunk:
    return Trunk(
        name=name,
        backbone=backbone.eval().to(device),
        device=device,
        mean=mean,
        std=std,
        identity=_digest(backbone.state_dict(), type(backbone).__name__, mean, std),
        size=size,
        facts=facts or {},
        prototypes=prototypes,
        score=score,
        score_identity=score_identity,
    )


def _digest(tensors: Mapping[str, Tensor], *facts: object) -> str:
    """Names exactly these tensors and facts."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=12)
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def _rgb(values: Any) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
