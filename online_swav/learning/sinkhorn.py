"""Codes by Sinkhorn-Knopp: scores to soft assignments under the equal-partition constraint.

Paper section 3.1, "Computing codes online", equation 3 to 5. In the paper's symbols: Q [K, B]
maximises Tr(Q^T C^T Z) + epsilon H(Q) over the polytope with row sums 1/K and column sums 1/B.
Here samples are rows, so codes are the transposed Q times B.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from online_swav.learning.ranks import SINGLE_RANK, Ranks

LINEAR_FROM = 0.04
"""Epsilon from which on no entry vanishes: cosines span 2 / 0.04 = 50 powers of e, float32 87."""


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "N K"], *, epsilon: float, iterations: int, ranks: Ranks = SINGLE_RANK
) -> Float[Tensor, "N K"]:
    """Soft codes of N samples over K prototypes.

    An iteration only scales rows and columns of exp(scores / epsilon), so that matrix is made once,
    in float32, read twice per iteration, and scaled once at the end. For sharp codes its entries
    would vanish (linear float32 fails below epsilon 0.028 at K = 3000; half precision overflows
    above cosine 0.55 at epsilon 0.05): below `LINEAR_FROM` the first iteration works on logarithms.
    It leaves 1/(N K) or more as the largest entry of every row and column, beside which nothing
    matters that is small enough to vanish.

    Args:
        scores: Cosines of N embeddings (batch, then this rank's share of the queue) to K
            prototypes, in [-1, 1]. N may differ from rank to rank.
        epsilon: Entropy weight; smaller is sharper.
        iterations: Alternations of prototype and sample normalisation.
        ranks: All ranks; the constraint holds over all of their samples together.

    Returns:
        Codes: each row sums to 1; each column sums to about N / K over all ranks.

    Raises:
        ValueError: If epsilon <= 0, iterations < 1, or a single rank has no sample. (One of several
            ranks may have none: it takes part in the sums, and gets no codes.)
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if scores.shape[0] == 0 and ranks.size == 1:
        raise ValueError("Sinkhorn needs at least one sample")
    with torch.autocast(device_type=scores.device.type, enabled=False):
        if epsilon >= LINEAR_FROM:
            codes = (scores.float() - 1).div_(epsilon).exp_()
        else:
            log_q = scores.float() / epsilon
            log_q -= _log_sum_over_samples(log_q, ranks)
            codes = log_q.softmax(dim=1)
            iterations -= 1
        per_sample = codes.new_ones(codes.shape[0])
        for _ in range(iterations):
            # Prototypes: every column gets the same mass, over all ranks. Any factor would do; it
            # may not drift away.
            per_prototype = ranks.sum(per_sample @ codes).reciprocal_()
            per_prototype /= per_prototype.mean()
            # Samples: every row becomes a distribution. A row lives on one rank.
            per_sample = (codes @ per_prototype).reciprocal_()
        if iterations:
            codes.mul_(per_prototype).mul_(per_sample.unsqueeze(1))
        return codes


def _log_sum_over_samples(log_q: Float[Tensor, "N K"], ranks: Ranks) -> Float[Tensor, " K"]:
    """Log of the column sums over the samples of all ranks."""
    if ranks.size == 1:
        return log_q.logsumexp(dim=0)
    lowest = torch.finfo(log_q.dtype).min
    here = log_q.amax(dim=0) if len(log_q) else log_q.new_full((log_q.shape[1],), lowest)
    largest = ranks.max(here)
    return largest + ranks.sum((log_q - largest).exp().sum(dim=0)).log()


def check_scores(scores: Float[Tensor, "... K"]) -> None:
    """Refuse scores that cannot be cosines. Waits for the device.

    Raises:
        ValueError: If a score is not finite, or lies outside [-1, 1]: the embeddings or the
            prototypes are not of unit norm, the most common cause of NaN in SwAV.
    """
    largest = float(scores.detach().abs().max())
    if not largest < float("inf"):
        raise ValueError(
            "scores are not finite: the network's output is NaN or infinite. Lower "
            "learner.optim.lr, lengthen learner.schedule.warmup_steps, or switch autocast off."
        )
    if largest > 1 + 1e-3:
        raise ValueError(
            f"the largest |score| is {largest:.4f}: embeddings or prototypes are not of unit norm"
        )
