"""Preprocessing and trunk as one program, for any number and size of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from online_swav.encoder import Encoder


def whole(encoder: Encoder) -> nn.Module:
    """uint8 [N, 3, H, W] to features [N, F]."""
    return nn.Sequential(encoder.preprocessing, encoder.backbone).eval()


def example() -> tuple[Tensor]:
    """Pictures to trace it with; no two of its sizes are the same."""
    return (torch.zeros(2, 3, 70, 91, dtype=torch.uint8),)


def shapes() -> tuple[dict[int, Any]]:
    """Which of the sizes are open."""
    return ({0: Dim("batch"), 2: Dim("height"), 3: Dim("width")},)
