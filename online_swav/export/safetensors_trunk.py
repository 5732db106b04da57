"""`safetensors`: the trunk alone, with torchvision's names; the card is in the metadata too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from online_swav.encoder import Encoder
from online_swav.export.format import Format, anything
from online_swav.export.trunk import encode_lines, headless_line, model_lines, trunk_tensors


def _write(encoder: Encoder, out: Path, card: dict[str, Any]) -> tuple[str, ...]:
    save_file(trunk_tensors(encoder), out, metadata={"format": "pt", "card": json.dumps(card)})
    return ("the trunk without a classifier; the card is also its metadata",)


def _how_to_load(encoder: Encoder) -> str:
    return f"""\
import torch, torchvision
from safetensors.torch import load_file
from torchvision.transforms import v2

{model_lines(encoder)}
{headless_line(encoder)}
model.load_state_dict(load_file(FILE), strict=True)
{encode_lines(encoder)}"""


FORMAT = Format(
    name="safetensors", suffixes=(".safetensors",), check=anything, write=_write,
    how_to_load=_how_to_load,
)  # fmt: skip
