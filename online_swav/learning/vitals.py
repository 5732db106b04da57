"""A learner's vital signs: measured in every step and inspection, judged at every report."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from online_swav.learning.adjustments import Adjustments
from online_swav.learning.config import LearnerConfig
from online_swav.learning.feature_queue import FeatureQueue
from online_swav.learning.findings import Health, HealthValues
from online_swav.learning.health import SMOOTHING, HealthMonitor
from online_swav.learning.inspection import Encode, Inspection
from online_swav.learning.ranks import Ranks
from online_swav.learning.schedule import learning_rate
from online_swav.learning.signs import LearningJudge, Signals


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """What a step leaves to be measured; on the device, without gradients."""

    images: Float[Tensor, "B 3 s s"]
    """Augmented crops of the first view, of this rank."""
    features: Float[Tensor, "B F"]
    embeddings: Float[Tensor, "B D"]
    scores: Float[Tensor, "B K"]
    loss: Float[Tensor, ""]
    """Mean over all ranks, as the next three."""
    code_entropy: Float[Tensor, ""]
    view_agreement: Float[Tensor, ""]
    grad_norm: Float[Tensor, ""]
    skipped: Bool[Tensor, ""]
    """Whether the update was skipped: then nothing counts."""


class Vitals:
    """See the module.

    Args:
        config: Of the learner.
        feature_dim: F.
        ranks: All ranks.
        device: Where it measures.
        encode: The model in eval mode.
    """

    def __init__(
        self, config: LearnerConfig, *, feature_dim: int, ranks: Ranks, device: torch.device,
        encode: Encode,
    ) -> None:  # fmt: skip
        self._config = config
        self._feature_dim = feature_dim
        self._ranks = ranks
        self._encode = encode
        self._monitor = HealthMonitor(
            num_prototypes=config.model.num_prototypes, embedding_dim=config.model.embedding_dim,
            feature_dim=feature_dim, window_images=config.health.window_images,
        ).to(device)  # fmt: skip
        self.inspection = Inspection(ranks=ranks, every_steps=config.health.inspect_every_steps)
        self._judge = LearningJudge()
        self._images = 0.0  # of a step, over about 50 steps
        self._recipe = _loss_recipe(config)
        self._problem = (False, Adjustments(), self._recipe)

    def measure(
        self, step: int, tensors: StepTensors, *, images: int, prototypes: Float[Tensor, "K D"],
        queue: FeatureQueue, adjustments: Adjustments,
    ) -> None:  # fmt: skip
        """Measure a step; nothing here waits for the device.

        Args:
            step: Steps made before this one.
            tensors: What it leaves.
            images: Of all ranks.
            prototypes: After the update, of unit norm.
            queue: Of the learner.
            adjustments: In force.
        """
        problem = queue.full, adjustments, self._recipe
        if problem != self._problem:
            self._problem = problem
            self._monitor.forget_best()
        self._images += (images - self._images) * (1 - SMOOTHING if self._images else 1.0)
        self._monitor.update(
            tensors.scores, tensors.embeddings, tensors.features, loss=tensors.loss,
            code_entropy=tensors.code_entropy, view_agreement=tensors.view_agreement,
            grad_norm=tensors.grad_norm, images=images, unless=tensors.skipped,
            settled=step >= self._settled_step(adjustments),
        )  # fmt: skip
        if self.inspection.due(step):
            self.inspection.inspect(
                step, images=tensors.images, scores=tensors.scores, prototypes=prototypes,
                encode=self._encode,
                queue_steps=math.ceil(queue.length / max(self._images, 1)) if queue.full else 0,
            )  # fmt: skip
        self.inspection.compare_held(step, self._encode)

    def _settled_step(self, adjustments: Adjustments) -> int:
        """Step from which losses may be compared: all that is on its way at first is over."""
        codes = self._config.codes
        return max(
            codes.epsilon.steps, codes.temperature.steps, codes.freeze_prototypes_steps,
            self._config.schedule.warmup_steps, adjustments.frozen_until_step,
        )  # fmt: skip

    def values(self, step: int, queue: FeatureQueue) -> HealthValues:
        """All numbers now. A collective: every rank at the same step. Waits for the device."""
        ages = queue.ages(step) if queue.length else None
        rows = self._images + queue.length
        known = self._images > 0
        return dataclasses.replace(
            self.inspection.added_to(self._monitor.values(self._ranks)),
            queue_age_steps=ages[0] if ages else None,
            queue_age_max_steps=ages[1] if ages else None,
            images_per_prototype=rows / self._config.model.num_prototypes if known else None,
        )

    def judge(
        self, values: HealthValues, *, step: int, adjustments: Adjustments, recent_nonfinite: int
    ) -> Health:
        """Verdict and findings; what was found at earlier calls counts too."""
        config = self._config
        schedule = config.schedule
        signals = Signals(
            values=values,
            step=step,
            settled_step=self._settled_step(adjustments),
            stuck_after_steps=config.health.stuck_after_steps,
            fresh_window=self._monitor.fresh,
            num_prototypes=config.model.num_prototypes,
            embedding_dim=config.model.embedding_dim,
            feature_dim=self._feature_dim,
            recent_nonfinite=recent_nonfinite,
            lr=learning_rate(step, peak_lr=config.optim.lr, config=schedule),
            peak_lr=config.optim.lr,
            schedule_ended=schedule.total_steps is not None and step >= schedule.total_steps,
        )
        return self._judge.judge(signals, now=time.time())

    def state_dict(self) -> dict[str, Any]:
        """The window that is being filled and the running means."""
        return {
            **self._monitor.state_dict(),
            "window": {
                "slot": self._monitor.slot,
                "images": self._monitor.images,
                "queue_counts": self._problem[0],
                "adjustments": dataclasses.asdict(self._problem[1]),
                "recipe": self._problem[2],
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; inspections and the features' window begin anew."""
        self._monitor.load_state_dict({n: v for n, v in state.items() if n != "window"})
        window = state["window"]
        self._monitor.resume(slot=int(window["slot"]), images=int(window["images"]),
                             first=self._ranks.rank == 0)  # fmt: skip
        self._problem = (bool(window["queue_counts"]), Adjustments(**window["adjustments"]),
                         int(window["recipe"]))  # fmt: skip


def _loss_recipe(config: LearnerConfig) -> int:
    """A number for what a loss means: losses under other codes or colours are no measure."""
    parts = [dataclasses.asdict(config.codes), dataclasses.asdict(config.augment)]
    return zlib.crc32(json.dumps(parts, sort_keys=True).encode())
