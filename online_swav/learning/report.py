"""What one step did: tensors that stay on the device, and the same as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """A `StepReport` as plain numbers."""

    step: int
    """Number of the step, from 1."""
    samples: int
    """Images of the step, all ranks."""
    lr: float
    """Rate of the update."""
    epsilon: float
    """Of the codes."""
    temperature: float
    """Of the loss."""
    updated: bool
    """False when the update was skipped for a non-finite loss."""
    loss: float
    """Nats per image, over all ranks."""
    loss_ratio: float
    """Loss / log K: 1 when the prediction knows nothing."""
    grad_norm: float
    """L2 norm of the whole gradient."""
    code_entropy_ratio: float
    """Entropy of the codes / log K: 1 when they are uniform, 0 when they are one-hot."""
    view_agreement: float
    """Share of images whose two codes have the same largest prototype."""
    embedding_std_ratio: float
    """Std of the embeddings times sqrt(D): near 1 when spread, 0 when collapsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did. Tensors stay on the device until `to_host`."""

    step: int
    """Number of the step, from 1."""
    samples: int
    """Images of the step, all ranks."""
    lr: float
    """Rate of the update."""
    epsilon: float
    """Of the codes."""
    temperature: float
    """Of the loss."""
    skipped: Bool[Tensor, ""]
    """Whether the update was skipped for a non-finite loss."""
    loss: Float[Tensor, ""]
    """Nats per image, over all ranks."""
    grad_norm: Float[Tensor, ""]
    """L2 norm of the whole gradient, after the mean over ranks."""
    code_entropy: Float[Tensor, ""]
    """Mean entropy of the codes, nats."""
    view_agreement: Float[Tensor, ""]
    """Share of images whose two codes have the same largest prototype."""
    embedding_std: Float[Tensor, ""]
    """Root of the mean variance of the unit embeddings over dimensions; mean over ranks."""
    prototype_mass: Float[Tensor, " K"]
    """Mean of this rank's codes; sums to 1, or to 0 without images."""
    embedding_dim: int
    """D."""

    def to_host(self) -> HostReport:
        """Plain numbers; waits for the device."""
        log_k = math.log(self.prototype_mass.shape[0])
        loss, grad_norm, entropy, agreement, std = torch.stack(
            [self.loss, self.grad_norm, self.code_entropy, self.view_agreement, self.embedding_std]
        ).tolist()
        return HostReport(
            step=self.step,
            samples=self.samples,
            lr=self.lr,
            epsilon=self.epsilon,
            temperature=self.temperature,
            updated=not self.skipped,
            loss=loss,
            loss_ratio=loss / log_k,
            grad_norm=grad_norm,
            code_entropy_ratio=entropy / log_k,
            view_agreement=agreement,
            embedding_std_ratio=std * math.sqrt(self.embedding_dim),
        )
