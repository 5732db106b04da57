"""What `peers_learning.py` compares: SwAV of this project, and SimCLR, MoCo v2, SwAV from lightly.

The numbers of lightly's methods are those of its Imagenette benchmark (docs, getting started,
benchmarks; batch 256, ResNet-18), rates scaled by batch / 256 as there; what differs is said where
it stands. Steps are written here on lightly's heads, losses and utilities.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_swav.learning.augment import PhotometricAugment
from online_swav.learning.config import LearnerConfig, QueueConfig, ScheduleConfig
from online_swav.learning.learner import Learner
from online_swav.learning.model import build_backbone
from online_swav.learning.randomness import step_generator
from online_swav.learning.schedule import learning_rate
from streams.config import CropFamily

DIM = 128
SMALLEST_EPSILON = 0.015
"""lightly's Sinkhorn takes exp(cosine / epsilon) in float32: below this it overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all methods share."""

    learner: LearnerConfig
    """Of our SwAV: backbone, prototypes, colours, precision, rate."""
    families: tuple[CropFamily, ...]
    """Of both SwAVs."""
    batch: int
    steps: int
    """Of the whole training: rates fall to zero over them, on a cosine."""
    bank: int
    """Negatives that MoCo stores."""
    queue: int
    """Embeddings per view that our SwAV stores."""
    seed: int
    device: str

    @property
    def pixels(self) -> int:
        """The crop budget: pixels of all crops of one image."""
        return sum(f.num * f.size**2 for f in self.families)

    def two_views(self, smallest: float) -> tuple[CropFamily, ...]:
        """The same budget as two views: what contrastive methods are made for."""
        side = int(math.sqrt(self.pixels / 2)) // 4 * 4
        return (CropFamily(size=side, num=2, scale=(smallest, 1.0)),)


class Method(Protocol):
    """One of the contenders in training."""

    backbone: nn.Module
    families: tuple[CropFamily, ...]
    stored_floats: int
    """Numbers kept from earlier images: negatives, queue."""
    momentum_floats: int
    """Numbers of a second, slowly moving copy of the network."""
    negatives: int
    """That each view is compared with."""

    def step(self, crops: Sequence[Tensor]) -> Tensor:
        """Train on uint8 crops [v, B, 3, s, s] of each family; the loss, on the device."""


class OurSwav:
    """`Learner`, as in a run."""

    def __init__(self, plan: Plan) -> None:
        warmup = min(plan.learner.schedule.warmup_steps, plan.steps // 10)
        config = dataclasses.replace(
            plan.learner,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=warmup, total_steps=plan.steps),
            queue=QueueConfig(length=plan.queue),
        )
        self._learner = Learner(config, device=plan.device, seed=plan.seed)
        self.backbone = self._learner.model.backbone
        self.families = plan.families
        self.stored_floats = 2 * plan.queue * config.model.embedding_dim
        self.momentum_floats = self.negatives = 0

    def step(self, crops: Sequence[Tensor]) -> Tensor:
        """See `Method`."""
        return self._learner.step(crops, images=crops[0].shape[1]).loss


class _OfLightly:
    """What its methods share: our backbone, colours and precision; an optimizer on a cosine."""

    families: tuple[CropFamily, ...]
    stored_floats = momentum_floats = negatives = 0
    rate: float

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        torch.manual_seed(plan.seed)
        model, augment = plan.learner.model, plan.learner.augment
        self.backbone, self.width = build_backbone(model.backbone, small_stem=model.small_stem)
        self._augment = PhotometricAugment(
            jitter=augment.jitter, jitter_p=augment.jitter_p, grayscale_p=augment.grayscale_p,
            blur_p=augment.blur_p, blur_sigma=augment.blur_sigma, mean=augment.mean,
            std=augment.std,
        )  # fmt: skip
        self.step_count = 0
        self._schedule = ScheduleConfig(kind="cosine", warmup_steps=0, total_steps=plan.steps)

    def loss(self, views: list[Tensor]) -> Tensor:
        """Of normalised views [B, 3, s, s]."""
        raise NotImplementedError

    def ready(self, modules: Sequence[nn.Module], optimizer: Callable[..., torch.optim.Optimizer],
              *, rate: float, **options: float) -> None:  # fmt: skip
        """Move to the device and make the optimizer."""
        self.rate = rate * self.plan.batch / 256
        layout = torch.channels_last if self.plan.learner.channels_last else torch.contiguous_format
        for module in (self.backbone, *modules):
            module.to(self.plan.device).to(memory_format=layout).train()
        parameters = [p for m in (self.backbone, *modules) for p in m.parameters()]
        self.optimizer = optimizer(parameters, lr=self.rate, **options)

    def step(self, crops: Sequence[Tensor]) -> Tensor:
        """See `Method`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step_count, peak_lr=self.rate, config=self._schedule)
        kind = torch.device(self.plan.device).type
        with step_generator(
            seed=self.plan.seed, step=self.step_count, rank=0, device=torch.device(self.plan.device)
        ) as generator:
            views = [v for family in crops for v in self._prepare(family, generator)]
            half = self.plan.learner.autocast == "bf16"
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
                loss = self.loss(views)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step_count += 1
        return loss.detach()

    def _prepare(self, family: Tensor, generator: torch.Generator) -> Tensor:
        flat = family.to(self.plan.device, non_blocking=True).flatten(0, 1)
        images = self._augment.apply(flat, self._augment.draw(len(flat), generator=generator))
        if self.plan.learner.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.unflatten(0, family.shape[:2])


class LightlySimclr(_OfLightly):
    """SGD 0.06, decay 5e-4, temperature 0.5, head F-F-128; the batch is all that it contrasts."""

    def __init__(self, plan: Plan) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__(plan)
        self.families = plan.two_views(0.08)  # of its SimCLRTransform
        self.negatives = 2 * plan.batch - 2
        self._head = SimCLRProjectionHead(self.width, self.width, DIM)
        self._criterion = NTXentLoss(temperature=0.5)
        self.ready([self._head], torch.optim.SGD, rate=0.06, momentum=0.9, weight_decay=5e-4)

    def loss(self, views: list[Tensor]) -> Tensor:
        """See `_OfLightly`."""
        first, second = (self._head(self.backbone(view)).float() for view in views)
        return self._criterion(first, second)  # type: ignore[no-any-return]


class LightlyMoco(_OfLightly):
    """SGD 0.06, decay 5e-4, temperature 0.1, momentum 0.99, head F-2048-128, 4096 negatives.

    The loss is symmetric. On one device the shuffle of its batch norm would change nothing.
    """

    def __init__(self, plan: Plan) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__(plan)
        self.families = plan.two_views(0.2)  # of its MoCoV2Transform
        self.negatives = plan.bank
        self.stored_floats = plan.bank * DIM
        self._network = nn.Sequential(self.backbone, MoCoProjectionHead(self.width, 2048, DIM))
        self._slow = copy.deepcopy(self._network)
        deactivate_requires_grad(self._slow)
        self.momentum_floats = sum(p.numel() for p in self._slow.parameters())
        self._criterion = NTXentLoss(temperature=0.1, memory_bank_size=(plan.bank, DIM))
        self._criterion.to(plan.device)
        self.ready([self._network[1]], torch.optim.SGD, rate=0.06, momentum=0.9, weight_decay=5e-4)
        layout = torch.channels_last if plan.learner.channels_last else torch.contiguous_format
        self._slow.to(plan.device).to(memory_format=layout).train()

    def loss(self, views: list[Tensor]) -> Tensor:
        """See `_OfLightly`."""
        from lightly.models.utils import update_momentum

        update_momentum(self._network, self._slow, 0.99)
        first, second = views
        halves = []
        for query, key in ((first, second), (second, first)):
            with torch.no_grad():
                keys = self._slow(key).float()
            halves.append(self._criterion(self._network(query).float(), keys))
        return torch.stack(halves).mean()


class LightlySwav(_OfLightly):
    """Adam, decay 1e-6, temperature 0.1, head F-2048-128, no queue.

    Prototypes, rate and epsilon are those of our recipe, which for a GPU are lightly's own: 3000,
    1e-3, 0.05. A smaller epsilon is taken as far as its Sinkhorn allows.
    """

    def __init__(self, plan: Plan) -> None:
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        super().__init__(plan)
        recipe = plan.learner
        self.families = plan.families
        self._head = SwaVProjectionHead(self.width, 2048, DIM)
        self._prototypes = SwaVPrototypes(DIM, recipe.model.num_prototypes)
        epsilon = max(recipe.codes.epsilon.end, SMALLEST_EPSILON)
        self._criterion = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=epsilon)
        self.ready([self._head, self._prototypes], torch.optim.Adam,
                   rate=recipe.optim.lr * 256 / plan.batch, weight_decay=1e-6)  # fmt: skip

    def loss(self, views: list[Tensor]) -> Tensor:
        """See `_OfLightly`."""
        self._prototypes.normalize()
        scores = []
        for view in views:
            embedding = self._head(self.backbone(view)).float()
            with torch.autocast(embedding.device.type, enabled=False):
                scores.append(self._prototypes(F.normalize(embedding, dim=1)))
        return self._criterion(scores[:2], scores[2:]).squeeze(0)  # type: ignore[no-any-return]


METHODS: dict[str, Callable[[Plan], Method]] = {
    "SwAV, ours": OurSwav,
    "SwAV, lightly": LightlySwav,
    "SimCLR, lightly": LightlySimclr,
    "MoCo v2, lightly": LightlyMoco,
}
