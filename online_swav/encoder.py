"""The encoder of a run: pictures in, features out.

encoder = Encoder.load("runs/mine")           # or a published or checkpoint folder, or a file
features = encoder(["a.jpg", "b.jpg"])        # float32 [2, F]; also uint8 tensors, PIL images
encoder.refresh()                             # True if the run has published a newer one
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_swav.errors import ConfigError
from online_swav.learning.model import build_backbone, build_projection_head
from online_swav.preprocessing import Pictures, Preprocessing, batches, squares
from online_swav.weights import Weights, fit, is_run, misfits_in_words, newest_of_run, read_weights

BATCH = 128
"""Pictures that go through the backbone together."""
_NEEDED = ("backbone", "preprocessing")


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """All of one encoder; replaced as a whole, so that a refresh disturbs no call under way."""

    weights: Weights
    backbone: nn.Module
    feature_dim: int
    preprocessing: Preprocessing
    head: nn.Module | None
    prototypes: Tensor | None


class Encoder:
    """A frozen trunk with its preprocessing. Thread-safe: a call sees one encoder throughout.

    Made by `Encoder.load`.
    """

    def __init__(self, loaded: _Loaded, *, source: Path, device: torch.device) -> None:
        self._loaded = loaded
        self._source = source
        self._device = device

    @staticmethod
    def load(path: Path | str, *, device: torch.device | str = "cpu") -> Encoder:
        """The encoder at `path`.

        Args:
            path: A run folder (the newest of `published/`, else its newest checkpoint), one
                published or checkpoint folder, or a `.safetensors` or `.pth` file with
                FILE.card.json or card.json beside it.
            device: Where it runs; results are on the CPU.

        Raises:
            ConfigError: If there is none, or it cannot be read; the message says what to do.
        """
        device = torch.device(device)
        return Encoder(_load(read_weights(path), device), source=Path(path), device=device)

    @property
    def backbone(self) -> nn.Module:
        """The torchvision trunk without its classifier, in evaluation mode: output [N, F]."""
        return self._loaded.backbone

    @property
    def preprocessing(self) -> Preprocessing:
        """From uint8 [N, 3, H, W] to what the backbone takes."""
        return self._loaded.preprocessing

    @property
    def weights(self) -> Weights:
        """What it was loaded from, projection head and prototypes included."""
        return self._loaded.weights

    @property
    def feature_dim(self) -> int:
        """F."""
        return self._loaded.feature_dim

    @property
    def num_prototypes(self) -> int | None:
        """K; None where the source has no head and prototypes."""
        prototypes = self._loaded.prototypes
        return None if prototypes is None else len(prototypes)

    @property
    def card(self) -> dict[str, Any]:
        """What it says of itself: backbone, preprocessing {size, mean, std}, step, and more."""
        return dict(self._loaded.weights.card or {})

    @property
    def place(self) -> Path:
        """The folder or file of these weights; of a run, the one that was taken."""
        return self._loaded.weights.place

    @property
    def name(self) -> str:
        """Short words for tables."""
        card = self.card
        step = f" at step {card['step']}" if "step" in card else f" of {self.place.name}"
        return f"{card['backbone']}{step}"

    def preprocess(self, images: Pictures) -> Tensor:
        """What the backbone takes: float [N, 3, S, S], on the encoder's device.

        Raises:
            ValueError: If a tensor is not uint8 [N, 3, H, W].
            DecodeError: If a file is no picture.
            OSError: If a file cannot be read.
        """
        with torch.no_grad():
            prepare = self._loaded.preprocessing
            parts = [squares(prepare, part) for part in batches(images, BATCH)]
            return torch.cat(parts) if parts else squares(prepare, images)

    def __call__(self, images: Pictures) -> Tensor:
        """Features of pictures: float32 [N, F], as the backbone gives them (not of unit norm).

        Args:
            images: uint8 [N, 3, H, W], or a list of PIL images, of paths, or of uint8 [3, H, W].

        Raises:
            ValueError, DecodeError, OSError: As `preprocess`.
        """
        return self.features_and_scores(images, with_scores=False)[0]

    def scores(self, images: Pictures) -> Tensor | None:
        """Cosines to the prototypes, float32 [N, K]; None where the source has none.

        Raises:
            ValueError, DecodeError, OSError: As `preprocess`.
        """
        return self.features_and_scores(images)[1]

    @torch.no_grad()
    def features_and_scores(
        self, images: Pictures, *, with_scores: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Both of one pass through the backbone: float32 [N, F], and [N, K] or None.

        Raises:
            ValueError, DecodeError, OSError: As `preprocess`.
        """
        loaded = self._loaded
        features = [torch.empty(0, loaded.feature_dim)]
        scores: list[Tensor] = []
        for part in batches(images, BATCH):
            found = loaded.backbone(squares(loaded.preprocessing, part)).float()
            features.append(found.cpu())
            if with_scores and loaded.head is not None and loaded.prototypes is not None:
                embeddings = F.normalize(loaded.head(found).float(), dim=1)
                scores.append((embeddings @ loaded.prototypes.T).cpu())
        if not with_scores or loaded.prototypes is None:
            return torch.cat(features), None
        return torch.cat(features), torch.cat([torch.empty(0, len(loaded.prototypes)), *scores])

    def refresh(self) -> bool:
        """Take a newer encoder of the run, if it has published one; whether there was one.

        What was loaded from a single folder or file has no newer one.

        Raises:
            ConfigError: If the newer one cannot be read; the one before stays.
        """
        if self.place == self._source or not is_run(self._source):
            return False
        newest, here = newest_of_run(self._source), (self.place, self.weights.stamp)
        if newest in (None, here):
            return False
        weights = read_weights(self._source)
        if (weights.place, weights.stamp) == here:  # the newer one is damaged
            return False
        self._loaded = _load(weights, self._device)
        return True


def _load(weights: Weights, device: torch.device) -> _Loaded:
    card = weights.card
    if card is None:
        raise ConfigError(
            f"{weights.place} has no card beside it that names backbone and preprocessing; write "
            f'{weights.place.name}.card.json with {{"backbone": "resnet18", "preprocessing": '
            '{"size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}'
        )
    missing = [name for name in _NEEDED if name not in card]
    if missing:
        raise ConfigError(f"the card of {weights.place} does not say {' and '.join(missing)}")
    small_stem = bool(card.get("small_stem", False))
    try:
        preprocessing = Preprocessing.of_card(card)
        # Random weights are drawn and thrown away: not from the caller's generator.
        with torch.random.fork_rng(devices=[]):
            backbone, feature_dim = build_backbone(str(card["backbone"]), small_stem=small_stem)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:  # e.g. a mean of two numbers
        raise ConfigError(f"the card of {weights.place} is wrong: {error!r}") from error
    trunk, misfits = fit(backbone.state_dict(), weights.backbone)
    if misfits:
        raise ConfigError(
            f"{weights.place} does not fit the {card['backbone']} that its card names: "
            f"{misfits_in_words(misfits)}"
        )
    backbone.load_state_dict(trunk)
    with torch.random.fork_rng(devices=[]):
        head, prototypes = _head(weights.head, feature_dim)
    return _Loaded(
        weights=weights,
        backbone=backbone.eval().requires_grad_(False).to(device),
        feature_dim=feature_dim,
        preprocessing=preprocessing.to(device),
        head=None if head is None else head.eval().requires_grad_(False).to(device),
        prototypes=None if prototypes is None else prototypes.to(device),
    )


def _head(state: dict[str, Tensor], feature_dim: int) -> tuple[nn.Module | None, Tensor | None]:
    """Projection head and prototypes of unit norm, as their tensors are; None for what is odd."""
    prototypes = state.get("prototypes.weight")
    hidden = state.get("projection_head.0.weight")
    if prototypes is None or prototypes.dim() != 2:
        return None, None
    head = build_projection_head(
        feature_dim, hidden_dim=0 if hidden is None else len(hidden),
        embedding_dim=prototypes.shape[1],
    )  # fmt: skip
    prefix = "projection_head."
    try:
        head.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
    except RuntimeError:  # of another kind than ours: the trunk is good all the same
        return None, None
    return head, F.normalize(prototypes.float(), dim=1)
