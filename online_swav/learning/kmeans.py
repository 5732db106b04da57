"""Spherical k-means: centres on the unit sphere, for prototypes that begin where the data is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ITERATIONS = 20
_CHUNK = 4096


def spherical_kmeans(
    embeddings: Float[Tensor, "N D"], k: int, *, seed: int, iterations: int = ITERATIONS
) -> Float[Tensor, "k D"]:
    """Centres of unit norm; begins at k of the embeddings, drawn by `seed`.

    A centre that wins nothing moves to the embedding that is farthest from its own centre.

    Raises:
        ValueError: If there are fewer embeddings than centres.
    """
    if len(embeddings) < k:
        raise ValueError(f"{k} centres need at least as many embeddings, got {len(embeddings)}")
    generator = torch.Generator().manual_seed(seed)
    points = F.normalize(embeddings, dim=1)
    centres = points[torch.randperm(len(points), generator=generator)[:k]]
    for _ in range(iterations):
        nearest = [(part @ centres.T).max(dim=1) for part in points.split(_CHUNK)]
        cosine, winner = (torch.cat(parts) for parts in zip(*nearest, strict=True))
        sums = torch.zeros_like(centres).index_add_(0, winner, points)
        idle = torch.bincount(winner, minlength=k) == 0
        sums[idle] = points[cosine.argsort()[: int(idle.sum())]]
        centres = F.normalize(sums, dim=1)
    return centres
