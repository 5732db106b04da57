"""One step of SwAV, and all the state that the next step depends on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from online_swav.learning.augment import PhotometricAugment
from online_swav.learning.config import LearnerConfig
from online_swav.learning.feature_queue import FeatureQueue
from online_swav.learning.findings import Health
from online_swav.learning.health import HealthMonitor, HealthValues, assess
from online_swav.learning.loss import swapped_prediction_loss
from online_swav.learning.model import SwavModel
from online_swav.learning.optim import build_optimizer
from online_swav.learning.ranks import SINGLE_RANK, Ranks
from online_swav.learning.schedule import learning_rate, ramp
from online_swav.learning.sinkhorn import check_scores, sinkhorn

NUM_ASSIGNED = 2
NONFINITE_MEMORY_STEPS = 1000
LOSS_SMOOTHING = 0.98


class NonFiniteLossError(ArithmeticError):
    """The loss stayed NaN or infinite for too many steps in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """A `StepReport` as plain numbers."""

    step: int
    samples: int
    lr: float
    epsilon: float
    temperature: float
    loss: float
    loss_ratio: float
    """Loss / log K."""
    grad_norm: float
    code_entropy_ratio: float
    """Entropy of the codes / log K."""
    view_agreement: float
    embedding_std_ratio: float
    """Std of the embeddings times sqrt(D)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did. Tensors stay on the device until `to_host`."""

    step: int
    """Number of the step, from 1."""
    samples: int
    """Images of the step, all ranks."""
    lr: float
    epsilon: float
    temperature: float
    updated: bool
    """False when the update was skipped for a non-finite loss."""
    loss: Tensor
    """[], nats, this rank's images."""
    grad_norm: Tensor
    """[], of the whole gradient."""
    code_entropy: Tensor
    """[], mean entropy of the codes, nats."""
    view_agreement: Tensor
    """[], share of images whose two codes have the same largest prototype."""
    embedding_std: Tensor
    """[], root mean variance of the embeddings over dimensions."""
    prototype_mass: Tensor
    """[K], mean of the codes."""
    embedding_dim: int

    def to_host(self) -> HostReport:
        """Plain numbers; waits for the device."""
        log_k = math.log(self.prototype_mass.shape[0])
        numbers = torch.stack(
            [self.loss, self.grad_norm, self.code_entropy, self.view_agreement, self.embedding_std]
        ).tolist()
        loss, grad_norm, entropy, agreement, std = numbers
        return HostReport(
            step=self.step, samples=self.samples, lr=self.lr, epsilon=self.epsilon,
            temperature=self.temperature, loss=loss, loss_ratio=loss / log_k, grad_norm=grad_norm,
            code_entropy_ratio=entropy / log_k, view_agreement=agreement,
            embedding_std_ratio=std * math.sqrt(self.embedding_dim),
        )  # fmt: skip


class Learner:
    """A SwAV model in training.

    Args:
        config: Everything that decides what a step does.
        device: Where it runs.
        ranks: All ranks; codes, gradients and the queue are those of all of them together.
        seed: Of the initial weights and, with the rank, of the augmentation.
        wrap: Put around the model from outside: DDP, SyncBN. Identity on one rank.

    Raises:
        ValueError: If the backbone is unknown.
    """

    def __init__(
        self,
        config: LearnerConfig,
        *,
        device: torch.device | str = "cpu",
        ranks: Ranks = SINGLE_RANK,
        seed: int = 0,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self._ranks = ranks
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = SwavModel(
                backbone=config.model.backbone, small_stem=config.model.small_stem,
                hidden_dim=config.model.hidden_dim, embedding_dim=config.model.embedding_dim,
                num_prototypes=config.model.num_prototypes,
            )  # fmt: skip
        self.model = model.to(self.device)
        self.model.to(memory_format=self._memory_format)
        self._network = wrap(self.model)
        self._optimizer = build_optimizer(self.model, config.optim)
        self._queue = FeatureQueue(
            num_views=NUM_ASSIGNED, length=config.queue.length, dim=config.model.embedding_dim
        ).to(self.device)
        augment = config.augment
        self._augment = PhotometricAugment(
            jitter=augment.jitter, jitter_p=augment.jitter_p, grayscale_p=augment.grayscale_p,
            blur_p=augment.blur_p, blur_sigma=augment.blur_sigma, mean=augment.mean,
            std=augment.std,
        )  # fmt: skip
        # On the host, so that a run gives the same colours on every kind of device.
        self._generator = torch.Generator().manual_seed(seed * 1_000_003 + ranks.rank)
        self._monitor = HealthMonitor(
            num_prototypes=config.model.num_prototypes, embedding_dim=config.model.embedding_dim,
            window_images=config.health.window_images,
        ).to(self.device)  # fmt: skip
        self._smoothed_loss = torch.zeros((), device=self.device)
        self.step_count = 0
        """Steps made, skipped ones included: claims are keyed by it."""
        self.samples_seen = 0
        """Images in these steps, all ranks."""
        self.nonfinite_steps = 0
        """Steps skipped for a non-finite loss."""
        self._nonfinite_in_a_row = 0
        self._last_nonfinite_step = -1

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.channels_last else torch.contiguous_format

    @property
    def queue_fill_ratio(self) -> float:
        """Fill of the feature queue; 0 when it is off."""
        return self._queue.num_filled / self._queue.length if self._queue.length else 0.0

    def step(self, crops: Sequence[UInt8[Tensor, "v b 3 s s"]]) -> StepReport:
        """Train on one batch; the first family's first two views get codes.

        The host waits for the device once, to learn whether the loss is finite. When it is not, on
        any rank, nothing changes on all ranks: weights, optimizer, queue and batch norm statistics
        stay, and the step is counted as skipped.

        Raises:
            NonFiniteLossError: After `health.max_nonfinite_steps` such steps in a row.
            ValueError: If the scores are no cosines (checked at the first step).
        """
        config = self.config
        epsilon = ramp(self.step_count, config.codes.epsilon)
        temperature = ramp(self.step_count, config.codes.temperature)
        lr = learning_rate(self.step_count, peak_lr=config.optim.lr, config=config.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = lr

        local = crops[0].shape[1]
        total = int(self._ranks.sum(torch.tensor(local, device=self.device)))
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        families = [self._prepare(family) for family in crops]
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=config.autocast == "bf16"
        ):
            embeddings, scores = self._network(families)
        if self.step_count == 0:
            check_scores(scores)
        assigned = embeddings[:NUM_ASSIGNED].detach()
        codes = self._codes(assigned, scores[:NUM_ASSIGNED].detach(), epsilon=epsilon)
        loss = swapped_prediction_loss(scores, codes, temperature=temperature)
        # DDP averages over ranks; this weight makes it the mean over all images.
        self._optimizer.zero_grad(set_to_none=True)
        (loss * (local * self._ranks.size / total)).backward()
        if self.step_count < config.codes.freeze_prototypes_steps:
            self.model.prototypes.weight.grad = None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(grads)

        bad = self._ranks.max((~(loss.detach() + grad_norm).isfinite()).float())
        updated = not bool(bad)
        if updated:
            self._optimizer.step()
            self.model.normalize_prototypes()
            if self._queue.length and self.step_count >= config.queue.start_step:
                self._queue.push(self._ranks.gather(assigned, 1))
            self._monitor.update(scores[0].detach(), assigned[0], images=total)
            self._smooth(loss.detach())
            self._nonfinite_in_a_row = 0
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            self._count_nonfinite(loss)
        self.step_count += 1
        self.samples_seen += total
        largest = codes.argmax(dim=2)
        return StepReport(
            step=self.step_count,
            samples=total,
            lr=lr,
            epsilon=epsilon,
            temperature=temperature,
            updated=updated,
            loss=loss.detach(),
            grad_norm=grad_norm,
            code_entropy=torch.special.entr(codes).sum(dim=2).mean(),
            view_agreement=(largest[0] == largest[1]).float().mean(),
            embedding_std=assigned[0].var(dim=0, correction=0).mean().sqrt(),
            prototype_mass=codes.mean(dim=(0, 1)),
            embedding_dim=embeddings.shape[2],
        )

    def health_values(self) -> HealthValues:
        """The last full window. A collective: every rank must call it at the same step."""
        return self._monitor.values(self._ranks)

    def health(self) -> Health:
        """Verdict and findings. A collective, as `health_values`; waits for the device."""
        model, limits = self.config.model, self.config.health
        recent = self._last_nonfinite_step >= max(0, self.step_count - NONFINITE_MEMORY_STEPS)
        smoothed = float(self._smoothed_loss) / math.log(model.num_prototypes)
        return assess(
            self.health_values(),
            loss_ratio=smoothed if self.step_count else None,
            step=self.step_count,
            stuck_after_steps=limits.stuck_after_steps,
            num_prototypes=model.num_prototypes,
            embedding_dim=model.embedding_dim,
            recent_nonfinite=self.nonfinite_steps if recent else 0,
        )

    # -- parts of a step -----------------------------------------------------------------------

    def _prepare(self, family: UInt8[Tensor, "v b 3 s s"]) -> Float[Tensor, "v b 3 s s"]:
        """Augmented crops on the device."""
        views, batch = family.shape[:2]
        flat = family.flatten(0, 1).to(self.device, non_blocking=True)
        parameters = self._augment.draw(len(flat), generator=self._generator).to(self.device)
        images = self._augment.apply(flat, parameters)
        images = images.contiguous(memory_format=self._memory_format)
        return images.reshape(views, batch, *images.shape[1:])

    def _codes(
        self,
        embeddings: Float[Tensor, "A B D"],
        scores: Float[Tensor, "A B K"],
        *,
        epsilon: float,
    ) -> Float[Tensor, "A B K"]:
        """Codes of the assigned views, each by its own Sinkhorn over batch and queue."""
        rows = scores
        if self._queue.full:
            share = self._queue.share(rank=self._ranks.rank, size=self._ranks.size)
            prototypes = self.model.prototypes.weight.detach().float()
            rows = torch.cat([scores, share @ prototypes.T], dim=1)
        codes = [
            sinkhorn(view, epsilon=epsilon, iterations=self.config.codes.iterations,
                     ranks=self._ranks)[: embeddings.shape[1]]
            for view in rows
        ]  # fmt: skip
        return torch.stack(codes)

    def _smooth(self, loss: Tensor) -> None:
        keep = LOSS_SMOOTHING if self.step_count else 0.0
        self._smoothed_loss.mul_(keep).add_(loss, alpha=1 - keep)

    def _count_nonfinite(self, loss: Tensor) -> None:
        self.nonfinite_steps += 1
        self._nonfinite_in_a_row += 1
        self._last_nonfinite_step = self.step_count
        if self._nonfinite_in_a_row >= self.config.health.max_nonfinite_steps:
            first = self.step_count - self._nonfinite_in_a_row + 2
            raise NonFiniteLossError(
                f"loss or gradient not finite in steps {first} to {self.step_count + 1} (last loss "
                f"{float(loss.detach()):g}). The newest checkpoint is older: start again with a "
                "lower --learner.optim.lr, a longer --learner.schedule.warmup-steps, or "
                "--learner.autocast off."
            )

    # -- state ---------------------------------------------------------------------------------

    _COUNTERS = (
        "step_count", "samples_seen", "nonfinite_steps", "_nonfinite_in_a_row",
        "_last_nonfinite_step",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; loads with `torch.load(weights_only=True)`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "queue": self._queue.state_dict(),
            "monitor": self._monitor.state_dict(),
            "smoothed_loss": self._smoothed_loss,
            "generator": self._generator.get_state(),
            "counters": {name.lstrip("_"): getattr(self, name) for name in self._COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: If the state is that of another configuration; the field is named.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"the learner's state lacks {', '.join(sorted(missing))}")
        for name, module in (
            ("model", self.model), ("queue", self._queue), ("monitor", self._monitor),
        ):  # fmt: skip
            try:
                module.load_state_dict(state[name])
            except RuntimeError as error:
                raise ValueError(f"the state of the {name} does not fit: {error}") from error
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ValueError(f"the state of the optimizer does not fit: {error}") from error
        self._queue.refresh()
        self._smoothed_loss.copy_(state["smoothed_loss"])
        self._generator.set_state(state["generator"])
        for name in self._COUNTERS:
            setattr(self, name, int(state["counters"][name.lstrip("_")]))
