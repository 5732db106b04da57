"""Clusters against labels: how well the prototypes have found the classes on their own."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from online_swav.errors import ConfigError
from online_swav.evaluation.features import Features

MISSING = "clusters need scikit-learn: pip install 'online-swav[evaluate]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of clusters and labels; all of it grows with the number of clusters but ARI."""

    nmi: float
    """Normalized mutual information: 0 without any relation, 1 for the same partition."""
    ari: float
    """Rand index adjusted for chance: 0 for random clusters, 1 for the same partition."""
    purity: float
    """Share of images that have the most frequent label of their cluster."""
    used: int
    """Clusters that have an image."""
    clusters: int
    images: int

    def rows(self) -> list[tuple[str, int | float]]:
        """See `result.Result`."""
        return [
            ("NMI", self.nmi), ("ARI", self.ari), ("purity", self.purity),
            ("clusters used", self.used), ("clusters", self.clusters),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult:
    """Two ways to cluster, into as many clusters."""

    prototypes: Agreement | None
    """An image belongs to the prototype of the highest score; None without prototypes."""
    k_means: Agreement | None
    """k-means of the features, which every trunk has; None for fewer images than clusters."""

    def rows(self) -> list[tuple[str, int | float]]:
        """See `result.Result`."""
        ways = (("prototypes", self.prototypes), ("k-means", self.k_means))
        return [(f"{way}: {name}", value) for way, found in ways if found is not None
                for name, value in found.rows()]  # fmt: skip


def cluster_agreement(
    assignments: Int64[Tensor, " N"], labels: Int64[Tensor, " N"], *, clusters: int
) -> Agreement:
    """Compare clusters with labels.

    Args:
        assignments: The cluster of each image, from 0.
        labels: Its class, from 0.
        clusters: K, those without an image included.

    Raises:
        ConfigError: If scikit-learn is not installed.
        ValueError: If there are no images.
    """
    try:
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    except ImportError as error:
        raise ConfigError(MISSING) from error
    if not len(labels):
        raise ValueError("clusters need at least one image")
    classes = int(labels.max()) + 1
    counts = torch.bincount(assignments * classes + labels, minlength=clusters * classes)
    counts = counts.view(clusters, classes)
    found, known = assignments.numpy(), labels.numpy()
    return Agreement(
        nmi=float(normalized_mutual_info_score(known, found)),
        ari=float(adjusted_rand_score(known, found)),
        purity=int(counts.amax(dim=1).sum()) / len(labels),
        used=int((counts.sum(dim=1) > 0).sum()),
        clusters=clusters,
        images=len(labels),
    )


def k_means(features: Features, *, clusters: int, seed: int) -> Int64[Tensor, " N"]:
    """Clusters of the directions of features.

    Raises:
        ConfigError: If scikit-learn is not installed, or there are fewer images than clusters.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise ConfigError(MISSING) from error
    if len(features.labels) < clusters:
        raise ConfigError(
            f"{len(features.labels)} images cannot make {clusters} clusters; give more --test "
            "images or a larger --limit"
        )
    means = MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=4096)
    with warnings.catch_warnings():
        # Equal images make fewer clusters than asked for: `used` says so.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = means.fit_predict(F.normalize(features.features, dim=1).numpy())
    return torch.from_numpy(found).long()
