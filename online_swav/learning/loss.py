"""The swapped prediction problem (paper section 3.1, equations 1 and 2, with multi-crop 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def swapped_prediction_loss(
    scores: Float[Tensor, "V B K"], codes: Float[Tensor, "A B K"], *, temperature: float
) -> Float[Tensor, ""]:
    """Every view predicts the codes of each *other* assigned view; nats per image, 0 without any.

    Args:
        scores: Cosines of V views to the prototypes. The first A views are the assigned ones.
        codes: Soft assignments of the assigned views; rows sum to 1, no gradient.
        temperature: Of the prediction's softmax.

    Raises:
        ValueError: If temperature <= 0, or there are fewer views than codes or than 2.
    """
    num_views, num_assigned = scores.shape[0], codes.shape[0]
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if num_views < max(2, num_assigned):
        raise ValueError(f"{num_views} views cannot predict the codes of {num_assigned}")
    with torch.autocast(device_type=scores.device.type, enabled=False):
        log_p = (scores.float() / temperature).log_softmax(dim=2)
        # cross[a, v] = mean over images of -sum_k q_a log p_v; a view does not predict itself.
        cross = -torch.einsum("abk,vbk->av", codes.float(), log_p) / max(scores.shape[1], 1)
        others = cross.sum() - cross.diagonal().sum()
        return others / (num_assigned * (num_views - 1))
