"""`onnx`: preprocessing and trunk, uint8 `images` [N, 3, H, W] to float `features` [N, F]."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from online_swav.encoder import Encoder
from online_swav.export.format import Format, anything
from online_swav.export.program import example, shapes, whole


def _write(encoder: Encoder, out: Path, card: dict[str, Any]) -> tuple[str, ...]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter about its own ways
        program = torch.onnx.export(
            whole(encoder), example(), dynamo=True, dynamic_shapes=shapes(), verbose=False,
            input_names=["images"], output_names=["features"],
        )  # fmt: skip
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.model.metadata_props["card"] = json.dumps(card)
    program.save(out, external_data=False)
    return ("images: uint8 [N, 3, H, W] of any N, H, W; resize, crop and norm are inside",)


def _how_to_load(_encoder: Encoder) -> str:
    return """\
import onnxruntime

session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])

def encode(images):
    return session.run(["features"], {"images": images})[0]
"""


FORMAT = Format(
    name="onnx", suffixes=(".onnx",), check=anything, write=_write, how_to_load=_how_to_load,
    libraries=("onnx", "onnxscript", "onnxruntime"),
)  # fmt: skip
