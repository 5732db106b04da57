"""What the formats share that hold weights for torchvision's own code."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.learning.model import find_classifier


def trunk_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The trunk's tensors by torchvision's names."""
    return {
        name: v.detach().cpu().contiguous() for name, v in encoder.backbone.state_dict().items()
    }


def plain_model(encoder: Encoder) -> nn.Module:
    """The torchvision model of the encoder's kind, with its classifier, as its constructor is."""
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = torchvision.models.get_model(encoder.card["backbone"], weights=None)
    return model


def require_plain_stem(encoder: Encoder, format_name: str) -> None:
    """Refuse a ResNet with the stem for small pictures.

    Raises:
        ConfigError: If it has one.
    """
    if encoder.card.get("small_stem"):
        name = encoder.card["backbone"]
        raise ConfigError(
            f"--format {format_name}: this {name} was trained with small_stem (a 3x3 stem without "
            f"max-pool), which torchvision.models.{name}() does not have, so its weights cannot "
            "load there. Use --format onnx or torch-export, which carry the network, or "
            "safetensors, whose card says how to build it."
        )


def model_lines(encoder: Encoder) -> str:
    """Python lines for `model`, the plain constructor's."""
    name = encoder.card["backbone"]
    lines = [f'model = torchvision.models.get_model("{name}", weights=None)']
    if encoder.card.get("small_stem"):
        width = encoder.backbone.state_dict()["conv1.weight"].shape[0]
        lines += [
            f"model.conv1 = torch.nn.Conv2d(3, {width}, 3, padding=1, bias=False)  # small stem",
            "model.maxpool = torch.nn.Identity()",
        ]
    return "\n".join(lines)


def headless_line(encoder: Encoder) -> str:
    """The Python line that takes the classifiers off `model`."""
    plain = plain_model(encoder)
    auxiliary = [name for name in ("aux1", "aux2", "AuxLogits") if hasattr(plain, name)]
    others = "".join(f"model.{name} = " for name in auxiliary)
    others = f"{others}None; model.aux_logits = False; " if others else ""
    attribute, classifier = find_classifier(plain)
    if not isinstance(classifier, nn.Sequential):
        return f"{others}model.{attribute} = torch.nn.Identity()"
    first = next(i for i, layer in enumerate(classifier) if isinstance(layer, nn.Linear))
    return f"{others}model.{attribute} = model.{attribute}[:{first}]"


def encode_lines(encoder: Encoder) -> str:
    """Python lines for `encode` from `model`, with torchvision's transforms."""
    told = encoder.card["preprocessing"]
    return f"""\
model.eval()
prepare = v2.Compose([
    v2.ToDtype(torch.float32, scale=True),
    v2.Resize({told["size"]}, antialias=True),
    v2.CenterCrop({told["size"]}),
    v2.Normalize({tuple(told["mean"])}, {tuple(told["std"])}),
])

@torch.no_grad()
def encode(images):
    return model(prepare(torch.from_numpy(images))).numpy()
"""
