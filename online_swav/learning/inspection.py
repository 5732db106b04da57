"""What is too dear for every step: measured every `health.inspect_every_steps` steps.

Each measure is a function of tensors; `Inspection` keeps the last results on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from online_swav.learning.findings import HealthValues
from online_swav.learning.ranks import Ranks

DUPLICATE_COSINE = 0.975
ROWS_AT_ONCE = 1024
HELD_IMAGES = 32
EVAL_IMAGES = 256
Encode = Callable[[Float[Tensor, "b 3 s s"]], tuple[Float[Tensor, "b D"], Float[Tensor, "b K"]]]
"""Embeddings and scores of images in eval mode, without gradients."""


def duplicate_share(prototypes: Float[Tensor, "K D"]) -> Float[Tensor, ""]:
    """Share of unit prototypes with a cosine above `DUPLICATE_COSINE` to another one."""
    duplicates = prototypes.new_zeros(())
    for start in range(0, len(prototypes), ROWS_AT_ONCE):
        rows = prototypes[start : start + ROWS_AT_ONCE]
        cosines = rows @ prototypes.T
        cosines.diagonal(offset=start).fill_(-1)
        duplicates += (cosines.amax(dim=1) > DUPLICATE_COSINE).sum()
    return duplicates / len(prototypes)


def drift(
    before: Float[Tensor, "K D"], now: Float[Tensor, "K D"], *, steps: int
) -> Float[Tensor, ""]:
    """1 - mean cosine of unit prototypes to themselves `steps` steps ago, per 1,000 steps."""
    moved: Tensor = 1 - (before * now).sum(dim=1).mean()
    return moved.mul(1000 / steps)


def marginal_error(codes: Float[Tensor, "A N K"], ranks: Ranks) -> Float[Tensor, ""]:
    """Mean |K x mass of a prototype - 1| over the codes of all rows of all ranks."""
    num_prototypes = codes.shape[2]
    mass = ranks.sum(codes.sum(dim=1))
    share = mass * num_prototypes / mass.sum(dim=1, keepdim=True).clamp(min=1e-30)
    return (share - 1).abs().mean()


def usage_ratio(
    train_scores: Float[Tensor, "b K"], eval_scores: Float[Tensor, "b K"], ranks: Ranks
) -> Float[Tensor, ""]:
    """Perplexity of the winning prototypes in eval mode / in train mode, of the same images."""
    counts = train_scores.new_zeros(2, train_scores.shape[1])
    for row, scores in zip(counts, (train_scores, eval_scores), strict=True):
        row.index_add_(0, scores.argmax(dim=1), scores.new_ones(len(scores)))
    counts = ranks.sum(counts)
    p = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    both: Tensor = torch.special.entr(p).sum(dim=1).exp()
    return both[1] / both[0]


@dataclass(frozen=True, slots=True)
class _Held:
    """Images and what they were encoded to, until the queue's oldest embedding is as old."""

    images: Float[Tensor, "b 3 s s"]
    embeddings: Float[Tensor, "b D"]
    due: int


class Inspection:
    """Results of the last inspection, on the device.

    Args:
        ranks: All ranks; results are those of all of them together.
        every_steps: Steps between two inspections.
    """

    def __init__(self, *, ranks: Ranks, every_steps: int) -> None:
        self._ranks = ranks
        self._every = every_steps
        self._results: dict[str, Tensor] = {}
        self._prototypes: tuple[int, Tensor] | None = None
        self._held: _Held | None = None

    def due(self, step: int) -> bool:
        """Whether the step after `step` is inspected."""
        return step > 0 and step % self._every == 0

    @torch.no_grad()
    def inspect(
        self,
        step: int,
        *,
        images: Float[Tensor, "B 3 s s"],
        scores: Float[Tensor, "B K"],
        prototypes: Float[Tensor, "K D"],
        encode: Encode,
        queue_steps: int,
    ) -> None:
        """Measure: prototypes, the gap of batch norm, and hold a slice for the queue's staleness.

        Args:
            step: Steps made.
            images: Augmented crops of the first view of this rank.
            scores: Their scores in train mode.
            prototypes: Of unit norm.
            encode: The model in eval mode.
            queue_steps: Steps after which an embedding leaves the queue; 0 when there is none.
        """
        self._results["duplicate_prototype_ratio"] = duplicate_share(prototypes)
        if self._prototypes is not None and self._prototypes[0] < step:
            before_step, before = self._prototypes
            self._results["prototype_drift"] = drift(before, prototypes, steps=step - before_step)
        self._prototypes = step, prototypes.clone()
        images = images[:EVAL_IMAGES]
        embeddings, eval_scores = encode(images)
        self._results["eval_usage_ratio"] = usage_ratio(
            scores[: len(images)], eval_scores, self._ranks
        )
        if queue_steps and self._held is None:
            self._held = _Held(
                images[:HELD_IMAGES].clone(), embeddings[:HELD_IMAGES].clone(), step + queue_steps
            )

    def record_codes(
        self,
        codes: Float[Tensor, "A N K"],
        *,
        with_queue: Float[Tensor, ""] | None,
        alone: Float[Tensor, ""] | None,
    ) -> None:
        """Note the codes of all rows, and the loss with the queue and without it, if it counts."""
        self._results["marginal_error_ratio"] = marginal_error(codes, self._ranks)
        if with_queue is not None and alone is not None:
            sums = self._ranks.sum(torch.stack([with_queue, alone]))
            self._results["queue_loss_ratio"] = sums[0] / sums[1]

    @torch.no_grad()
    def compare_held(self, step: int, encode: Encode) -> None:
        """Encode the held slice again when it is as old as the queue's oldest embedding."""
        if self._held is None or step < self._held.due:
            return
        embeddings, _ = encode(self._held.images)
        cosines = (embeddings * self._held.embeddings).sum(dim=1)
        sums = self._ranks.sum(torch.stack([cosines.sum(), torch.ones_like(cosines).sum()]))
        self._results["queue_cosine"] = sums[0] / sums[1].clamp(min=1)
        self._held = None

    def added_to(self, values: HealthValues) -> HealthValues:
        """`values` with the last results filled in; waits for the device."""
        if not self._results:
            return values
        numbers = torch.stack([value.float() for value in self._results.values()]).tolist()
        return replace(values, **dict(zip(self._results, numbers, strict=True)))
