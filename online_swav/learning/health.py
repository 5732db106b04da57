"""What is measured at every step: a window of usage and spectra, and running means.

The codes cannot show collapse: Sinkhorn makes them uniform on a collapsed encoder too. Hence usage
is counted on the argmax of raw scores, beside spread and rank of embeddings and features.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from online_swav.learning.findings import HealthValues
from online_swav.learning.ranks import SINGLE_RANK, Ranks

SMOOTHING = 0.98
"""Of loss, entropy and agreement: a mean over about 50 steps."""
SHORT, LONG = 0.9, 0.995
"""Of the gradient's norm, on logarithms: about 10 steps against about 200."""
EIGEN_SHARE = 0.005
"""Share of the time that may go into decomposing the features' covariance."""
ALPHA_FROM = 5
"""First eigenvalue of the power-law fit; the largest ones do not follow it."""
ALPHA_TO = 100
LEAK = 0.002
"""By how much of log K the lowest loss rises per window: streams change, and best is no promise."""


def rankme(second_moment: Float[Tensor, "D D"]) -> float:
    """Effective rank exp(H(p)), p = singular values of Z / their sum (Garrido et al. 2023).

    The singular values of Z [N, D] are the roots of the eigenvalues of Z^T Z.
    """
    return _rank_of(torch.linalg.eigvalsh(second_moment.double().cpu()))


def _rank_of(eigenvalues: Float[Tensor, " D"]) -> float:
    singular = eigenvalues.clamp(min=0).sqrt()
    total = singular.sum()
    if not total > 0:
        return 0.0
    p = singular / total
    return float(torch.special.entr(p).sum().exp())


def spectrum_alpha(eigenvalues: Float[Tensor, " D"]) -> float | None:
    """Decay alpha of eigenvalues ~ rank^-alpha (alpha-ReQ, Agrawal et al. 2022); by least squares.

    Args:
        eigenvalues: Of a covariance, ascending.

    Returns:
        About 1 for good representations; large when few directions carry everything. None if there
        are too few eigenvalues above rounding errors.
    """
    descending = eigenvalues.flip(0)
    usable = descending[descending > descending[0] * 1e-7][ALPHA_FROM - 1 : ALPHA_TO]
    if len(usable) < ALPHA_FROM:
        return None
    x = torch.arange(ALPHA_FROM, ALPHA_FROM + len(usable), dtype=usable.dtype).log()
    y = usable.log()
    x = x - x.mean()
    return float(-(x * (y - y.mean())).sum() / (x * x).sum())


def perplexity(counts: Float[Tensor, " K"]) -> float:
    """exp(entropy) of a histogram; 0 when it is empty."""
    total = counts.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(counts / total).sum().exp())


class HealthMonitor(nn.Module):
    """Sums over a window of images, and running means; nothing here waits for the device.

    There are two slots: one is being filled, the other holds the last full window. The host knows
    when a window is full, since it counts the images of skipped steps too.

    Args:
        num_prototypes: K.
        embedding_dim: D.
        feature_dim: F.
        window_images: Images over all ranks that fill a window.
    """

    counts: Tensor
    moment: Tensor
    mean: Tensor
    feature_moment: Tensor
    feature_mean: Tensor
    seen: Tensor
    running: Tensor
    norms: Tensor
    norm_weights: Tensor
    best_loss: Tensor

    def __init__(
        self, *, num_prototypes: int, embedding_dim: int, feature_dim: int, window_images: int
    ) -> None:
        super().__init__()
        self._window = window_images
        self.register_buffer("counts", torch.zeros(2, num_prototypes))
        self.register_buffer("moment", torch.zeros(2, embedding_dim, embedding_dim))
        self.register_buffer("mean", torch.zeros(2, embedding_dim))
        # Images of this rank in the slot: of embeddings, and of features.
        self.register_buffer("seen", torch.zeros(2, 2))
        # Smoothed loss, entropy, agreement and smoothed 1: ratios to it have no bias to the start.
        self.register_buffer("running", torch.zeros(4))
        # Logarithm of the gradient's norm over few and over many steps, and smoothed ones of both.
        self.register_buffer("norms", torch.zeros(2, 2))
        weights = torch.tensor([[1 - SHORT], [1 - LONG]]).expand(2, 2).clone()
        self.register_buffer("norm_weights", weights, persistent=False)
        self.register_buffer("best_loss", torch.full((), math.inf))
        # As large as a layer: not in checkpoints, the first window after a resume lacks them.
        for name, shape in (("moment", (feature_dim, feature_dim)), ("mean", (feature_dim,))):
            self.register_buffer(f"feature_{name}", torch.zeros(2, *shape), persistent=False)
        self.slot = 0
        """The slot that is being filled."""
        self.images = 0
        """Images of all ranks in it, those of skipped steps too."""
        self.fresh = False
        """Whether a window was filled since this monitor was made or resumed."""
        self._cached: HealthValues | None = None
        self._eigen_end = 0.0
        self._eigen_pause = 0.0
        self._spectrum: tuple[float | None, float | None] = (None, None)

    @torch.no_grad()
    def update(
        self,
        scores: Float[Tensor, "B K"],
        embeddings: Float[Tensor, "B D"],
        features: Float[Tensor, "B F"],
        *,
        loss: Float[Tensor, ""],
        code_entropy: Float[Tensor, ""],
        view_agreement: Float[Tensor, ""],
        grad_norm: Float[Tensor, ""],
        images: int,
        unless: Bool[Tensor, ""],
        settled: bool,
    ) -> None:
        """Add a step: raw scores, embeddings and features of one view of this rank's images.

        Args, beside tensors of the step and means over all ranks:
            images: Of all ranks.
            unless: Where it holds nothing is added.
            settled: Whether the loss may be compared with later ones: no ramp is under way.
        """
        slot = self.slot
        used = (~unless).to(self.counts.dtype)
        # Not bincount: it waits for the device.
        winners = scores.argmax(dim=1)
        self.counts[slot].index_add_(0, winners, used.expand(len(winners)))
        embeddings = embeddings.masked_fill(unless, 0)
        self.moment[slot].addmm_(embeddings.T, embeddings)
        self.mean[slot] += embeddings.sum(dim=0)
        features = features.float().masked_fill(unless, 0)
        self.feature_moment[slot].addmm_(features.T, features)
        self.feature_mean[slot] += features.sum(dim=0)
        self.seen[slot] += len(embeddings) * used
        now = torch.stack([loss, code_entropy, view_agreement, torch.ones_like(loss)])
        smoothed = self.running.lerp(now, 1 - SMOOTHING)
        self.running.copy_(self.running.where(unless, smoothed))
        # One that is no positive number is told by other means.
        level = grad_norm.clamp(1e-30, 1e30).log()
        pair = torch.stack([level, torch.ones_like(level)])
        self.norms.copy_(self.norms.where(unless, self.norms.lerp(pair, self.norm_weights)))
        self.images += images
        if self.images >= self._window:
            self._roll(settled)

    def resume(self, *, slot: int, images: int, first: bool) -> None:
        """Continue a window, after the buffers are loaded. The features' begin anew.

        Args:
            slot: The one that is being filled.
            images: In it.
            first: Whether this is rank 0, whose sums they are; the others have none.
        """
        self.slot, self.images, self._cached, self.fresh = slot, images, None, False
        if not first:
            for buffer in (self.counts, self.moment, self.mean, self.seen):
                buffer.zero_()

    def forget_best(self) -> None:
        """The problem has changed: losses of before are no measure any more."""
        self.best_loss.fill_(math.inf)

    def _roll(self, settled: bool) -> None:
        """The full slot becomes the window, the other one is emptied."""
        if settled:
            loss = self.running[0] / self.running[3]
            leaked = self.best_loss + LEAK * math.log(self.counts.shape[1])
            self.best_loss.copy_(torch.fmin(leaked, loss))
        self.slot = 1 - self.slot
        self.images = 0
        self.fresh = True
        for buffer in (self.counts, self.moment, self.mean, self.seen, self.feature_moment,
                       self.feature_mean):  # fmt: skip
            buffer[self.slot].zero_()
        self._cached = None

    def values(self, ranks: Ranks = SINGLE_RANK) -> HealthValues:
        """The last full window and the running means.

        A collective: every rank must call it at the same step. Waits for the device.
        """
        if self._cached is None:
            self._cached = self._of_window(ranks)
        loss, entropy, agreement, weight, best, *norms = torch.cat(
            [self.running, self.best_loss[None], self.norms.flatten()]
        ).tolist()
        if not weight:
            return self._cached
        log_k = math.log(self.counts.shape[1])
        (short, short_weight), (long, long_weight) = norms[:2], norms[2:]
        return replace(
            self._cached,
            loss_ratio=loss / weight / log_k,
            best_loss_ratio=best / log_k if math.isfinite(best) else None,
            code_entropy_ratio=entropy / weight / log_k,
            view_agreement_ratio=agreement / weight,
            gradient_norm_ratio=math.exp(
                max(min(short / short_weight - long / long_weight, 100.0), -100.0)
            ),
        )

    def _of_window(self, ranks: Ranks) -> HealthValues:
        last = 1 - self.slot
        (total, feature_total) = ranks.sum(self.seen[last]).tolist()
        counts, moment, mean = (
            ranks.sum(buffer[last]).double().cpu()
            for buffer in (self.counts, self.moment, self.mean)
        )
        feature_moment, feature_mean = (
            ranks.sum(buffer[last]) for buffer in (self.feature_moment, self.feature_mean)
        )
        if not total:
            return HealthValues()
        if feature_total and ranks.rank == 0:  # which alone reports it
            self._decompose(feature_moment / feature_total, feature_mean / feature_total)
        variance = (moment.diagonal() / total - (mean / total) ** 2).clamp(min=0)
        return HealthValues(
            images=int(total),
            usage_perplexity_ratio=perplexity(counts) / len(counts),
            dead_prototype_ratio=float((counts == 0).double().mean()),
            effective_rank=rankme(moment),
            embedding_std_ratio=math.sqrt(float(variance.mean()) * len(variance)),
            feature_rank=self._spectrum[0],
            spectrum_alpha=self._spectrum[1],
        )

    def _decompose(self, moment: Float[Tensor, "F F"], mean: Float[Tensor, " F"]) -> None:
        """Spectrum of the features, unless it would take too much of the time: 0.6 s at F 2048."""
        begun = time.monotonic()
        if begun - self._eigen_end < self._eigen_pause:
            return
        covariance = (moment - torch.outer(mean, mean)).double().cpu()
        eigenvalues = torch.linalg.eigvalsh(covariance)
        self._spectrum = _rank_of(eigenvalues), spectrum_alpha(eigenvalues)
        self._eigen_end = time.monotonic()
        self._eigen_pause = (self._eigen_end - begun) / EIGEN_SHARE
