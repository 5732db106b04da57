"""Linear classifiers on frozen features, many at once: a sweep of learning rates costs one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class LinearHeads:
    """R classifiers of the same features, each trained by SGD at its own rate.

    All begin with the same weights (normal, 0.01, no bias), and none feels the others: the loss is
    the sum of theirs. One that diverges harms only itself.

    Args:
        rates: A learning rate per head.
        classes: C.
        features: F.
        momentum: Of SGD.
        weight_decay: Of SGD; on weights and bias, as torch's.
        seed: Of the first weights.
        device: Where the heads live.
    """

    def __init__(
        self,
        *,
        rates: Sequence[float],
        classes: int,
        features: int,
        momentum: float,
        weight_decay: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        first = torch.randn(classes, features, generator=torch.Generator().manual_seed(seed)) * 0.01
        self.weight = first.repeat(len(rates), 1, 1).to(device).requires_grad_()  # [R, C, F]
        self.bias = torch.zeros(len(rates), classes, device=device, requires_grad=True)
        self._rates = torch.tensor(rates, device=device)
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocities = [torch.zeros_like(part) for part in (self.weight, self.bias)]

    @property
    def device(self) -> torch.device:
        """Where the heads live."""
        return self.weight.device

    def step(
        self,
        features: Float[Tensor, "B F"],
        labels: Int64[Tensor, " B"] | Bool[Tensor, "B C"],
        *,
        scale: float = 1.0,
    ) -> None:
        """One step of every head, at `scale` times its rate.

        One label for each image is learnt by cross-entropy, several by a logistic loss per class,
        summed over the classes.
        """
        scores = torch.einsum("bf,rcf->rbc", features, self.weight) + self.bias[:, None]
        if labels.dim() == 1:
            repeated = labels.repeat(len(scores))
            loss = F.cross_entropy(scores.flatten(0, 1), repeated, reduction="sum")
        else:
            truth = labels.to(scores.dtype).expand_as(scores)
            loss = F.binary_cross_entropy_with_logits(scores, truth, reduction="sum")
        gradients = torch.autograd.grad(loss / len(labels), (self.weight, self.bias))
        with torch.no_grad():
            for part, gradient, velocity in zip(
                (self.weight, self.bias), gradients, self._velocities, strict=True
            ):
                velocity.mul_(self._momentum).add_(gradient).add_(part, alpha=self._weight_decay)
                rates = self._rates.view(-1, *[1] * (part.dim() - 1))
                part.sub_(scale * rates * velocity)

    @torch.no_grad()
    def scores(self, head: int, features: Float[Tensor, "M F"]) -> Float[Tensor, "M C"]:
        """What one head says of `features`, on the CPU."""
        return (features.to(self.device) @ self.weight[head].T + self.bias[head]).cpu()
