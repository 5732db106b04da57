"""`torchvision`: a state dict that loads with `strict=True` into the plain constructor.

The trunk has no classifier, and the constructor's has one: its tensors are there, as zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from online_swav.encoder import Encoder
from online_swav.export.format import Format
from online_swav.export.trunk import (
    encode_lines,
    headless_line,
    model_lines,
    plain_model,
    require_plain_stem,
    trunk_tensors,
)

NAME = "torchvision"


def _check(encoder: Encoder) -> None:
    require_plain_stem(encoder, NAME)


def _write(encoder: Encoder, out: Path, _card: dict[str, Any]) -> tuple[str, ...]:
    trunk = trunk_tensors(encoder)
    whole = plain_model(encoder).state_dict()
    zeros = [name for name in whole if name not in trunk]
    torch.save({n: trunk.get(n, torch.zeros_like(v)) for n, v in whole.items()}, out)
    return (f"{', '.join(zeros)}: zeros, for strict=True; the run trained no classifier",)


def _how_to_load(encoder: Encoder) -> str:
    return f"""\
import torch, torchvision
from torchvision.transforms import v2

{model_lines(encoder)}
model.load_state_dict(torch.load(FILE, weights_only=True), strict=True)
{headless_line(encoder)}  # its tensors are zeros: put your own here, or nothing
{encode_lines(encoder)}"""


FORMAT = Format(
    name=NAME, suffixes=(".pth", ".pt"), check=_check, write=_write, how_to_load=_how_to_load
)
