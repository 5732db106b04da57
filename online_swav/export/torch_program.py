"""`torch-export`: preprocessing and trunk as an exported program (.pt2), for torch alone."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from online_swav.encoder import Encoder
from online_swav.export.format import Format, anything
from online_swav.export.program import example, shapes, whole


def _write(encoder: Encoder, out: Path, card: dict[str, Any]) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export about its own ways
        program = torch.export.export(whole(encoder), example(), dynamic_shapes=shapes())
        torch.export.save(program, out, extra_files={"card.json": json.dumps(card)})
    return ("images: uint8 [N, 3, H, W] of any N, H, W; resize, crop and norm are inside",)


def _how_to_load(_encoder: Encoder) -> str:
    return """\
import torch

program = torch.export.load(FILE).module()

@torch.no_grad()
def encode(images):
    return program(torch.from_numpy(images)).numpy()
"""


FORMAT = Format(
    name="torch-export", suffixes=(".pt2",), check=anything, write=_write, how_to_load=_how_to_load
)
