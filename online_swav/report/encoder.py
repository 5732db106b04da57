"""What the model of a checkpoint makes of the sample. On the CPU: a GPU is the learner's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from online_swav.checkpoint import Checkpoint
from online_swav.config import RunConfig
from online_swav.learning.model import SwavModel
from online_swav.report.samples import SampleImage

BATCH = 128


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The sample as one checkpoint sees it."""

    step: int
    embeddings: Tensor
    """Float [N, D], of unit norm."""
    scores: Tensor
    """Float [N, K]: cosines to the prototypes."""

    @property
    def winners(self) -> Tensor:
        """Int [N]: the prototype that each image is nearest to."""
        return self.scores.argmax(dim=1)

    @property
    def usage(self) -> Tensor:
        """Int [K]: images that each prototype wins."""
        return torch.bincount(self.winners, minlength=self.scores.shape[1])


def load_model(config: RunConfig, checkpoint: Checkpoint) -> SwavModel:
    """The model of a checkpoint in evaluation mode.

    Raises:
        ValueError: If the checkpoint is of another model, or is no longer there.
    """
    model = config.learner.model
    network = SwavModel(
        backbone=model.backbone, small_stem=model.small_stem, hidden_dim=model.hidden_dim,
        embedding_dim=model.embedding_dim, num_prototypes=model.num_prototypes,
    )  # fmt: skip
    try:
        network.load_state_dict(checkpoint.learner_state()["model"])
    except (OSError, RuntimeError, KeyError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{checkpoint.path.name} cannot be loaded: {why}") from error
    return network.eval()


@torch.inference_mode()
def encode(config: RunConfig, checkpoint: Checkpoint, images: Sequence[SampleImage]) -> Encoded:
    """Embeddings and scores of the sample.

    Raises:
        ValueError: As `load_model`, or if an embedding is not finite.
    """
    network = load_model(config, checkpoint)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 (config.learner.augment.mean, config.learner.augment.std))  # fmt: skip
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = np.stack([image.square for image in images[start : start + BATCH]])
        crops = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        projected = network.projection_head(network.backbone((crops - mean) / std))
        parts.append(F.normalize(projected.float(), dim=1))
    embeddings = torch.cat(parts)
    if not embeddings.isfinite().all():
        raise ValueError(f"{checkpoint.path.name} gives embeddings that are not finite")
    prototypes = F.normalize(network.prototypes.weight.float(), dim=1)
    return Encoded(checkpoint.manifest.step, embeddings, embeddings @ prototypes.T)
