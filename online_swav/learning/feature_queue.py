"""Past embeddings that steady the codes when the batch is small (paper section 4.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The newest `length` embeddings of each assigned view, newest first.

    Embeddings are stored, not scores: they are scored with the current prototypes at each step.
    Every rank holds the whole queue, so its state fits any number of ranks; in Sinkhorn rank r
    contributes rows r, r + size, ... and each row counts once.

    Args:
        num_views: Assigned views A.
        length: L, over all ranks.
        dim: Embedding width D.
    """

    features: Tensor
    pushed_at: Tensor

    def __init__(self, *, num_views: int, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.filled = 0
        """Embeddings stored per view; on the host, so that nobody waits for the device."""
        self.register_buffer("features", torch.zeros(num_views, length, dim))
        self.register_buffer("pushed_at", torch.zeros(length, dtype=torch.float64))

    @property
    def full(self) -> bool:
        """Whether the queue counts: a part of a queue would favour a few old batches."""
        return self.length > 0 and self.filled == self.length

    @torch.no_grad()
    def push(
        self,
        embeddings: Float[Tensor, "A B D"],
        *,
        step: int,
        unless: Bool[Tensor, ""] | None = None,
    ) -> None:
        """Put the embeddings of step `step` in front; the oldest fall out.

        Where `unless` holds, which the device alone knows, the features stay as they are; then
        `filled` counts too many, and the caller takes them back.
        """
        joined = torch.cat([embeddings.to(self.features), self.features], dim=1)[:, : self.length]
        self.features.copy_(joined if unless is None else self.features.where(unless, joined))
        new = self.pushed_at.new_full((embeddings.shape[1],), float(step))
        at = torch.cat([new, self.pushed_at])[: self.length]
        self.pushed_at.copy_(at if unless is None else self.pushed_at.where(unless, at))
        self.filled = min(self.filled + embeddings.shape[1], self.length)

    def ages(self, step: int) -> tuple[float, float] | None:
        """Mean and largest age of the stored embeddings, in steps; None while there are none.

        Waits for the device.
        """
        if not self.filled:
            return None
        ages = step - self.pushed_at[: self.filled]
        mean, largest = torch.stack([ages.mean(), ages.max()]).tolist()
        return mean, largest

    def share(self, *, rank: int, size: int) -> Float[Tensor, "A l D"]:
        """The rows that this rank contributes to Sinkhorn."""
        return self.features[:, rank::size]

    def get_extra_state(self) -> int:
        """The fill, beside the embeddings in the state."""
        return self.filled

    def set_extra_state(self, state: int) -> None:
        """Inverse of `get_extra_state`."""
        self.filled = int(state)
