"""`official`: the layout of facebookresearch/swav: trunk, projection head and prototypes.

`state_dict` with `module.` before every name, as its DistributedDataParallel saves it. Its own
scripts (eval_linear.py, eval_semisup.py) read it; its model file has ResNet-50 only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision

from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.export.format import Format
from online_swav.export.trunk import (
    encode_lines,
    headless_line,
    model_lines,
    require_plain_stem,
    trunk_tensors,
)

NAME = "official"


def _check(encoder: Encoder) -> None:
    require_plain_stem(encoder, NAME)
    if not isinstance(encoder.backbone, torchvision.models.ResNet):
        raise ConfigError(
            f"--format {NAME}: facebookresearch/swav has ResNets only, and this is a "
            f"{encoder.card['backbone']}; use another format"
        )
    if encoder.num_prototypes is None:
        raise ConfigError(
            f"--format {NAME} has projection head and prototypes, and {encoder.place} has none; "
            "take a checkpoint with --checkpoint STEP"
        )


def _write(encoder: Encoder, out: Path, card: dict[str, Any]) -> tuple[str, ...]:
    state = trunk_tensors(encoder) | encoder.weights.head
    torch.save(
        {
            "state_dict": {f"module.{name}": value for name, value in state.items()},
            "arch": card["backbone"],
            "epoch": 0,
        },
        out,
    )
    return ("state_dict with trunk, projection_head.* and prototypes.weight; no optimizer",)


def _how_to_load(encoder: Encoder) -> str:
    state = encoder.weights.head
    if "projection_head.weight" in state:
        width, features = state["projection_head.weight"].shape
        head = f"torch.nn.Linear({features}, {width})"
    else:
        hidden, features = state["projection_head.0.weight"].shape
        head = (
            f"torch.nn.Sequential(torch.nn.Linear({features}, {hidden}), "
            f"torch.nn.BatchNorm1d({hidden}),\n    torch.nn.ReLU(), "
            f"torch.nn.Linear({hidden}, {state['prototypes.weight'].shape[1]}))"
        )
    return f"""\
import torch, torchvision
from torchvision.transforms import v2

state = torch.load(FILE, weights_only=True)["state_dict"]
state = {{name.removeprefix("module."): value for name, value in state.items()}}

def part(prefix):
    return {{n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}}

{model_lines(encoder)}
{headless_line(encoder)}
others = ("projection_head.", "prototypes.")
model.load_state_dict({{n: v for n, v in state.items() if not n.startswith(others)}}, strict=True)
head = {head}
head.load_state_dict(part("projection_head."), strict=True)
head.eval()
prototypes = torch.nn.functional.normalize(state["prototypes.weight"], dim=1)
{encode_lines(encoder)}
@torch.no_grad()
def scores(images):
    embeddings = head(torch.from_numpy(encode(images)))
    return (torch.nn.functional.normalize(embeddings, dim=1) @ prototypes.T).numpy()
"""


FORMAT = Format(
    name=NAME, suffixes=(".pth", ".pth.tar", ".pt"), check=_check, write=_write,
    how_to_load=_how_to_load,
)  # fmt: skip
