"""Signs of collapse from tensors: a window of usage and spectrum, and findings in words.

The codes cannot show collapse: Sinkhorn makes them uniform on a collapsed encoder too. Hence usage
is counted on the argmax of raw scores, beside the spread and the rank of the embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from online_swav.learning.findings import Finding, Health
from online_swav.learning.ranks import SINGLE_RANK, Ranks

STUCK_RATIO = 0.98
NARROW_USAGE = 0.1
COLLAPSED_STD = 0.3
LOW_RANK_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthValues:
    """Values of the last full window, over all ranks; None before it is full."""

    usage_perplexity_ratio: float | None = None
    """exp(entropy of the score-argmax histogram) / K."""
    effective_rank: float | None = None
    """RankMe of the embeddings, in dimensions."""
    embedding_std_ratio: float | None = None
    """Root mean variance of the unit embeddings over dimensions, times sqrt(D)."""


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

    def __init__(self, *, num_prototypes: int, embedding_dim: int, window_images: int) -> None:
        super().__init__()
        self._window = window_images
        self.register_buffer("counts", torch.zeros(2, num_prototypes))
        self.register_buffer("moment", torch.zeros(2, embedding_dim, embedding_dim))
        self.register_buffer("mean", torch.zeros(2, embedding_dim))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))
        self._images = 0

    @torch.no_grad()
    def update(
        self,
        scores: Float[Tensor, "B K"],
        embeddings: Float[Tensor, "B D"],
        *,
        images: int,
    ) -> None:
        """Add a step: raw scores and embeddings of one view; `images` counts all ranks."""
        counts = torch.bincount(scores.argmax(dim=1), minlength=scores.shape[1])
        self.counts[0] += counts
        self.moment[0] += embeddings.T @ embeddings
        self.mean[0] += embeddings.sum(dim=0)
        self.seen[0] += len(embeddings)
        self._images += images
        if self._images >= self._window:
            for name in ("counts", "moment", "mean", "seen"):
                buffer = getattr(self, name)
                buffer[1] = buffer[0]
                buffer[0].zero_()
            self._images = 0

    def values(self, ranks: Ranks = SINGLE_RANK) -> HealthValues:
        """The last full window. A collective: every rank must call it at the same step."""
        seen = ranks.sum(self.seen[1])
        counts, moment, mean = (
            ranks.sum(buffer[1]).double().cpu() for buffer in (self.counts, self.moment, self.mean)
        )
        total = int(seen)
        if total == 0:
            return HealthValues()
        p = counts / counts.sum()
        p = p[p > 0]
        variance = (moment.diagonal() / total - (mean / total) ** 2).clamp(min=0)
        return HealthValues(
            usage_perplexity_ratio=float((-(p * p.log()).sum()).exp()) / counts.shape[0],
            effective_rank=rankme(moment),
            embedding_std_ratio=math.sqrt(float(variance.mean()) * variance.shape[0]),
        )

    def get_extra_state(self) -> int:
        """Images in the window that is being filled."""
        return self._images

    def set_extra_state(self, state: int) -> None:
        """Inverse of `get_extra_state`."""
        self._images = int(state)


def assess(
    values: HealthValues,
    *,
    loss_ratio: float | None,
    step: int,
    stuck_after_steps: int,
    num_prototypes: int,
    embedding_dim: int,
    recent_nonfinite: int,
) -> Health:
    """Verdict and findings, worst first.

    Args:
        values: Of the last full window.
        loss_ratio: Loss / log K, smoothed over steps.
        step: Completed updates.
        stuck_after_steps: Grace before loss = log K is a finding.
        num_prototypes: K.
        embedding_dim: D.
        recent_nonfinite: Updates skipped for a non-finite loss in the last 1,000 steps.
    """
    found: list[Finding] = []
    std = values.embedding_std_ratio
    if std is not None and std < COLLAPSED_STD:
        found.append(
            Finding(
                name="embedding_collapse", value=std, healthy=f"{COLLAPSED_STD} to 1, best near 1",
                remedy="All images look alike to the encoder: stop, resume from a checkpoint that "
                "was healthy with a lower --learner.optim.lr.",
                collapse=True,
            )
        )  # fmt: skip
    rank = values.effective_rank
    lowest_rank = max(2.0, LOW_RANK_SHARE * embedding_dim)
    if rank is not None and rank < lowest_rank:
        found.append(
            Finding(
                name="low_effective_rank", value=rank,
                healthy=f"above {lowest_rank:.0f} of {embedding_dim} dimensions",
                remedy="The embeddings span few dimensions: lower --learner.optim.lr, or raise "
                "--learner.queue.length or --ingest.batch-size.",
            )
        )  # fmt: skip
    usage = values.usage_perplexity_ratio
    if usage is not None and usage < NARROW_USAGE:
        found.append(
            Finding(
                name="narrow_prototype_usage", value=usage, healthy=f"above {NARROW_USAGE}",
                remedy="Few prototypes win: raise --learner.codes.freeze-prototypes-steps, or "
                "lower --learner.model.num-prototypes.",
                collapse=usage * num_prototypes < 1.5,
            )
        )  # fmt: skip
    if loss_ratio is not None and step > stuck_after_steps and loss_ratio > STUCK_RATIO:
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
    if any(finding.collapse for finding in found):
        return Health(verdict="collapsed", findings=tuple(found))
    if found:
        return Health(verdict="degraded", findings=tuple(found))
    return Health(verdict="ok" if usage is not None else "unknown")
