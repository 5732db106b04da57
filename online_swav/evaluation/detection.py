"""A smoke test of the trunk in a detector: torchvision's Faster R-CNN with a feature pyramid.

It answers two questions: does every weight of the trunk arrive in the detector, and does the
detector learn. The pictures are drawn here (bright rectangles on noise, one class for each colour),
so the losses say nothing about COCO or VOC.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import ResNet
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from online_swav.errors import ConfigError
from online_swav.evaluation.trunks import Trunk

_COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])
_REGIONS = 64
"""Regions of a picture that the box head learns from: an eighth of torchvision's, for a CPU."""
_LAYERS = ("layer1", "layer2", "layer3", "layer4")

Target = dict[str, Tensor]
"""As torchvision wants it: boxes [n, 4] as x1, y1, x2, y2, and labels [n] from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionConfig:
    """How much is trained, by SGD with momentum 0.9, gradients clipped to a norm of 10."""

    steps: int = 10
    batch: int = 2
    size: int = 128
    """Side of the drawn pictures, in pixels."""
    rate: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.size < 32:
            raise ValueError(
                "steps and batch must be at least 1 and size at least 32, got "
                f"{self.steps}, {self.batch} and {self.size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionResult:
    """What arrived in the detector, and how it learnt."""

    tensors: int
    """Weights and statistics of the trunk that the detector holds, bit for bit."""
    tensors_wanted: int
    """Of the trunk, the counters of batch norm aside, which only training reads."""
    parameters: int
    """Numbers in these tensors."""
    losses: tuple[float, ...]
    """Sum of the detector's four losses, at every step."""

    def rows(self) -> list[tuple[str, int | float]]:
        """Counts, then the loss of every step."""
        counts = [("trunk tensors loaded", self.tensors), ("of", self.tensors_wanted),
                  ("trunk parameters loaded", self.parameters)]  # fmt: skip
        steps = [(f"loss, step {n}", loss) for n, loss in enumerate(self.losses, start=1)]
        return [*counts, *steps]


def detector(trunk: Trunk, *, classes: int, size: int) -> FasterRCNN:
    """Faster R-CNN on the trunk, with a pyramid of its four stages.

    Batch norm is frozen, as torchvision has it for trained trunks: a few pictures make no good
    statistics.

    Args:
        trunk: A ResNet of torchvision.
        classes: With the background.
        size: Side that pictures are resized to.

    Raises:
        ConfigError: If the trunk is no ResNet.
    """
    source = trunk.backbone
    if not isinstance(source, ResNet):
        raise ConfigError(
            f"{trunk.name} is no torchvision ResNet, and the detector's feature pyramid is made "
            "of a ResNet's four stages"
        )
    body = _frozen_norm(source)
    width = source.inplanes // 8
    pyramid = BackboneWithFPN(
        body, {layer: str(level) for level, layer in enumerate(_LAYERS)},
        [width * 2**level for level in range(4)], 256, extra_blocks=LastLevelMaxPool(),
    )  # fmt: skip
    return FasterRCNN(
        pyramid, num_classes=classes, min_size=size, max_size=size,
        image_mean=list(trunk.mean), image_std=list(trunk.std),
        box_batch_size_per_image=_REGIONS,
    ).to(trunk.device)  # fmt: skip


def detection(
    trunk: Trunk,
    *,
    config: DetectionConfig,
    progress: Callable[[int, float], None] | None = None,
) -> DetectionResult:
    """Build the detector, count what arrived, train a few steps on drawn pictures.

    Raises:
        ConfigError: If the trunk is no ResNet.
    """
    with torch.random.fork_rng(devices=[trunk.device] if trunk.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model = detector(trunk, classes=len(_COLOURS) + 1, size=config.size)
        wanted, held = weights_and_statistics(trunk.backbone), model.backbone.body.state_dict()
        loaded = [
            name for name, tensor in wanted.items()
            if name in held and torch.equal(held[name], tensor)
        ]  # fmt: skip
        losses = _train(model, trunk.device, config, progress)
    return DetectionResult(
        tensors=len(loaded), tensors_wanted=len(wanted),
        parameters=sum(wanted[name].numel() for name in loaded), losses=tuple(losses),
    )  # fmt: skip


def is_resnet(trunk: Trunk) -> bool:
    """Whether it has the four stages that the feature pyramid is made of."""
    return isinstance(trunk.backbone, ResNet)


def weights_and_statistics(backbone: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics by name; not the counters of batch norm."""
    return {
        name: tensor for name, tensor in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }  # fmt: skip


def drawn(*, count: int, size: int, seed: int) -> tuple[list[Float[Tensor, "3 S S"]], list[Target]]:
    """Pictures in [0, 1] of one to three coloured rectangles on noise, with their boxes."""
    generator = torch.Generator().manual_seed(seed)
    pictures: list[Tensor] = []
    targets: list[Target] = []
    for _ in range(count):
        picture = torch.rand(3, size, size, generator=generator) * 0.3
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            sides = torch.randint(size // 6, size // 2, (2,), generator=generator)
            corner = (torch.rand(2, generator=generator) * (size - sides)).long()
            (x, y), (right, bottom) = corner.tolist(), (corner + sides).tolist()
            colour = int(torch.randint(len(_COLOURS), (), generator=generator))
            picture[:, y:bottom, x:right] = _COLOURS[colour][:, None, None]
            boxes.append([x, y, right, bottom])
            labels.append(colour + 1)
        pictures.append(picture)
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)})
    return pictures, targets


def _frozen_norm(source: ResNet) -> ResNet:
    """A copy in which batch norm is frozen, loaded strictly with the weights of `source`."""
    body = copy.deepcopy(source).requires_grad_(True)
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            body.set_submodule(name, FrozenBatchNorm2d(module.num_features, eps=module.eps))
    body.load_state_dict(source.state_dict(), strict=True)
    return body


def _train(
    model: FasterRCNN,
    device: torch.device,
    config: DetectionConfig,
    progress: Callable[[int, float], None] | None,
) -> list[float]:
    """The same few pictures at every step, so that the loss must fall."""
    pictures, targets = drawn(count=config.batch, size=config.size, seed=config.seed)
    pictures = [picture.to(device) for picture in pictures]
    targets = [{name: tensor.to(device) for name, tensor in target.items()} for target in targets]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=config.rate, momentum=0.9)
    model.train()
    losses: list[float] = []
    for step in range(config.steps):
        loss = sum(model(pictures, targets).values(), start=torch.zeros((), device=device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 10.0)
        optimizer.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, losses[-1])
    return losses
