"""The peers of the learner's benchmarks, loaded where they are: never a part of this project.

The official repository's training script imports apex, which is gone; so its model and its Sinkhorn
function are taken from the checkout, and the loop around them is written here after it: codes of
each assigned view, a loss per pair of views, SGD in place of LARC, the loss read at every step.
lightly's loop follows the example in its documentation: one backbone pass per view.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

Sinkhorn = Callable[[Tensor, float, int], Tensor]
Step = Callable[[], None]
TEMPERATURE, EPSILON, ITERATIONS, LR = 0.1, 0.05, 3, 0.05


def official_sinkhorn(checkout: Path) -> Sinkhorn:
    """`distributed_sinkhorn` of the official training script, on one rank."""
    path = checkout / "main_swav.py"
    if not path.exists():
        sys.exit(f"--official: {path} is missing; give a checkout of facebookresearch/swav")
    name = "distributed_sinkhorn"
    functions = [node for node in ast.parse(path.read_text()).body
                 if isinstance(node, ast.FunctionDef) and node.name == name]  # fmt: skip
    args = SimpleNamespace(world_size=1, epsilon=0.0, sinkhorn_iterations=0)
    scope: dict[str, Any] = {
        "torch": torch, "args": args, "dist": SimpleNamespace(all_reduce=lambda _sum: None),
    }  # fmt: skip
    exec(compile(ast.Module(functions, []), str(path), "exec"), scope)

    def run(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
        args.epsilon, args.sinkhorn_iterations = epsilon, iterations
        with torch.no_grad():
            return scope[name](scores)  # type: ignore[no-any-return]

    return run


def lightly_sinkhorn() -> Sinkhorn | None:
    """lightly's, if it is installed."""
    try:
        from lightly.loss.swav_loss import sinkhorn
    except ImportError:
        return None
    return lambda scores, epsilon, iterations: sinkhorn(
        scores, iterations=iterations, epsilon=epsilon
    )


def official_step(
    checkout: Path, backbone: str, prototypes: int, families: Sequence[Tensor],
) -> Step:  # fmt: skip
    """The official model and step on normalised crops `[v, B, 3, s, s]`; fp16 autocast on a GPU."""
    spec = importlib.util.spec_from_file_location(
        "official_resnet", checkout / "src" / "resnet50.py"
    )
    if spec is None or spec.loader is None or not (checkout / "src" / "resnet50.py").exists():
        sys.exit(f"--official: {checkout} is no checkout of facebookresearch/swav")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    blocks = {"resnet18": (module.BasicBlock, [2, 2, 2, 2]),
              "resnet50": (module.Bottleneck, [3, 4, 6, 3])}[backbone]  # fmt: skip
    device = families[0].device
    model = module.ResNet(
        *blocks, normalize=True, hidden_mlp=2048, output_dim=128, nmb_prototypes=prototypes
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-6)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    codes_of = official_sinkhorn(checkout)
    views = sum(len(family) for family in families)

    def step() -> None:
        with torch.no_grad():
            model.prototypes.weight.copy_(F.normalize(model.prototypes.weight, dim=1))
        with torch.autocast(device.type, dtype=torch.float16, enabled=scaler.is_enabled()):
            features = torch.cat([model.forward_backbone(f.flatten(0, 1)) for f in families])
            _, output = model.forward_head(features)
        by_view = output.chunk(views)
        loss = output.new_zeros((), dtype=torch.float32)
        for assigned in range(2):
            codes = codes_of(by_view[assigned].detach().float(), EPSILON, ITERATIONS)
            pairs = [
                -(codes * F.log_softmax(by_view[v].float() / TEMPERATURE, dim=1)).sum(1).mean()
                for v in range(views)
                if v != assigned
            ]
            loss = loss + sum(pairs) / (views - 1) / 2
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return step


def lightly_step(backbone: str, prototypes: int, families: Sequence[Tensor]) -> Step:
    """Its modules and loss on normalised crops. It must be installed."""
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

    device = families[0].device
    network = torchvision.models.get_model(backbone)
    width = network.fc.in_features
    network.fc = nn.Identity()
    model = nn.Sequential(network, SwaVProjectionHead(width, 2048, 128)).to(device)
    heads = SwaVPrototypes(128, prototypes).to(device)
    criterion = SwaVLoss(temperature=TEMPERATURE, sinkhorn_iterations=ITERATIONS,
                         sinkhorn_epsilon=EPSILON)  # fmt: skip
    optimizer = torch.optim.SGD([*model.parameters(), *heads.parameters()], lr=LR, momentum=0.9,
                                weight_decay=1e-6)  # fmt: skip
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    crops = [view for family in families for view in family]

    def step() -> None:
        heads.normalize()
        with torch.autocast(device.type, dtype=torch.float16, enabled=scaler.is_enabled()):
            scores = [heads(F.normalize(model(crop), dim=1, p=2)) for crop in crops]
            loss = criterion(scores[:2], scores[2:])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step
