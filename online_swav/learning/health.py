"""Signs of collapse from tensors: a window of usage and spectrum, and findings in words.

The codes cannot show collapse: Sinkhorn makes them uniform on a collapsed encoder too. Hence usage
is counted on the argmax of raw scores, beside the spread and the rank of the embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from online_swav.learning.findings import Finding, Health
from online_swav.learning.ranks import SINGLE_RANK, Ranks

# Collapsed encoders measure 0.00 usage and 0.05 std; 20 Zipf clusters on 300 prototypes 0.17 usage;
# healthy ones above 0.3 usage and 0.5 std.
STUCK_RATIO = 0.98
NARROW_USAGE = 0.1
COLLAPSED_STD = 0.3
LOW_RANK_SHARE = 0.05
LOSS_SMOOTHING = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthValues:
    """Values of the last full window, over all ranks; None before it is full."""

    images: int = 0
    """Images in the window."""
    usage_perplexity_ratio: float | None = None
    """exp(entropy of the score-argmax histogram) / K."""
    effective_rank: float | None = None
    """RankMe of the embeddings, in dimensions."""
    embedding_std_ratio: float | None = None
    """Root mean variance of the unit embeddings over dimensions, times sqrt(D)."""
    loss_ratio: float | None = None
    """Loss / log K, smoothed over about 50 steps; None before the first step."""


def rankme(second_moment: Float[Tensor, "D D"]) -> float:
    """Effective rank exp(H(p)), p = singular values of Z / their sum (Garrido et al. 2023).

    The singular values of Z [N, D] are the roots of the eigenvalues of Z^T Z.
    """
    eigenvalues = torch.linalg.eigvalsh(second_moment.double().cpu()).clamp(min=0)
    singular = eigenvalues.sqrt()
    total = singular.sum()
    if total <= 0:
        return 0.0
    p = singular / total
    p = p[p > 0]
    return float((-(p * p.log()).sum()).exp())


class HealthMonitor(nn.Module):
    """Sums over a window of images; the newest full window is what `values` reports.

    Args:
        num_prototypes: K.
        embedding_dim: D.
        window_images: Images over all ranks that fill a window.
    """

    counts: Tensor
    moment: Tensor
    mean: Tensor
    seen: Tensor
    images: Tensor
    loss: Tensor

    def __init__(self, *, num_prototypes: int, embedding_dim: int, window_images: int) -> None:
        super().__init__()
        self._window = window_images
        self.register_buffer("counts", torch.zeros(2, num_prototypes))
        self.register_buffer("moment", torch.zeros(2, embedding_dim, embedding_dim))
        self.register_buffer("mean", torch.zeros(2, embedding_dim))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))
        # Images of all ranks in the window that is being filled; `seen` counts those of this rank.
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        # Smoothed loss and smoothed 1: their ratio has no bias towards the start.
        self.register_buffer("loss", torch.zeros(2))

    @torch.no_grad()
    def update(
        self,
        scores: Float[Tensor, "B K"],
        embeddings: Float[Tensor, "B D"],
        loss: Float[Tensor, ""],
        *,
        images: int,
        unless: Bool[Tensor, ""],
    ) -> None:
        """Add a step: raw scores and embeddings of one view; `images` counts all ranks.

        Where `unless` holds nothing is added. Nothing here waits for the device.
        """
        used = ~unless
        # Not bincount: it waits for the device.
        winners = scores.argmax(dim=1)
        self.counts[0].index_add_(0, winners, used.to(self.counts.dtype).expand(len(winners)))
        embeddings = embeddings.masked_fill(unless, 0)
        self.moment[0] += embeddings.T @ embeddings
        self.mean[0] += embeddings.sum(dim=0)
        self.seen[0] += len(embeddings) * used
        self.images += images * used
        smoothed = self.loss.lerp(torch.stack([loss, torch.ones_like(loss)]), 1 - LOSS_SMOOTHING)
        self.loss.copy_(self.loss.where(unless, smoothed))
        full = self.images >= self._window
        for buffer in (self.counts, self.moment, self.mean, self.seen):
            rolled = torch.stack([torch.zeros_like(buffer[0]), buffer[0]])
            buffer.copy_(rolled.where(full, buffer))
        self.images *= ~full

    def values(self, ranks: Ranks = SINGLE_RANK) -> HealthValues:
        """The last full window. A collective: every rank must call it at the same step."""
        seen = ranks.sum(self.seen[1])
        counts, moment, mean = (
            ranks.sum(buffer[1]).double().cpu() for buffer in (self.counts, self.moment, self.mean)
        )
        loss, weight = ranks.sum(self.loss).tolist()
        loss_ratio = loss / weight / math.log(counts.shape[0]) if weight else None
        total = int(seen)
        if total == 0:
            return HealthValues(loss_ratio=loss_ratio)
        p = counts / counts.sum()
        p = p[p > 0]
        variance = (moment.diagonal() / total - (mean / total) ** 2).clamp(min=0)
        return HealthValues(
            images=total,
            loss_ratio=loss_ratio,
            usage_perplexity_ratio=float((-(p * p.log()).sum()).exp()) / counts.shape[0],
            effective_rank=rankme(moment),
            embedding_std_ratio=math.sqrt(float(variance.mean()) * variance.shape[0]),
        )


def assess(
    values: HealthValues,
    *,
    step: int,
    stuck_after_steps: int,
    num_prototypes: int,
    embedding_dim: int,
    recent_nonfinite: int,
) -> Health:
    """Verdict and findings, worst first.

    Args:
        values: Of the last full window.
        step: Steps made.
        stuck_after_steps: Grace at the start: before it nothing counts as collapse, nor loss =
            log K as a finding.
        num_prototypes: K.
        embedding_dim: D.
        recent_nonfinite: Updates skipped for a non-finite loss, if one was of late.
    """
    found: list[Finding] = []
    past_start = step > stuck_after_steps
    std = values.embedding_std_ratio
    if std is not None and std < COLLAPSED_STD:
        found.append(
            Finding(
                name="embedding_collapse", value=std, healthy=f"{COLLAPSED_STD} to 1, best near 1",
                remedy="All images look alike to the encoder: stop, resume from a checkpoint that "
                "was healthy with a lower --learner.optim.lr.",
                collapse=past_start,
            )
        )  # fmt: skip
    usage = values.usage_perplexity_ratio
    # n images cannot use more than n prototypes.
    lowest_usage = NARROW_USAGE * min(1.0, values.images / num_prototypes)
    if usage is not None and usage < lowest_usage:
        found.append(
            Finding(
                name="narrow_prototype_usage", value=usage, healthy=f"above {lowest_usage:.3g}",
                remedy="Few prototypes win: raise --learner.codes.freeze-prototypes-steps, or "
                "lower --learner.model.num-prototypes.",
                collapse=past_start and usage * num_prototypes < 1.5,
            )
        )  # fmt: skip
    rank = values.effective_rank
    # Few prototypes need few dimensions.
    lowest_rank = max(
        min(2.0, embedding_dim / 4), min(LOW_RANK_SHARE * embedding_dim, num_prototypes / 4)
    )
    if rank is not None and rank < lowest_rank:
        found.append(
            Finding(
                name="low_effective_rank", value=rank,
                healthy=f"above {lowest_rank:.1f} of {embedding_dim} dimensions",
                remedy="The embeddings span few dimensions: lower --learner.optim.lr, or raise "
                "--learner.queue.length or --ingest.batch-size.",
            )
        )  # fmt: skip
    loss_ratio = values.loss_ratio
    if loss_ratio is not None and past_start and loss_ratio > STUCK_RATIO:
        found.append(
            Finding(
                name="stuck_at_log_k", value=loss_ratio, healthy="0.37 to 0.9 after the start",
                remedy="The codes are too soft to follow: lower --learner.codes.epsilon.start "
                "(0.01 to 0.015 for small models), or raise "
                "--learner.codes.freeze-prototypes-steps, or lower --learner.optim.lr.",
            )
        )  # fmt: skip
    if recent_nonfinite:
        found.append(
            Finding(
                name="nonfinite_steps", value=float(recent_nonfinite), healthy="0",
                remedy="The loss was NaN or infinite: lower --learner.optim.lr, lengthen "
                "--learner.schedule.warmup-steps, or set --learner.autocast off.",
            )
        )  # fmt: skip
    found.sort(key=lambda finding: not finding.collapse)
    if found:
        collapsed = found[0].collapse
        return Health(verdict="collapsed" if collapsed else "degraded", findings=tuple(found))
    return Health(verdict="ok" if usage is not None else "unknown")
