"""Options of the method, with units and sources. Imports no torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Backbone, projection head, prototypes (paper section 3)."""

    backbone: str = "resnet18"
    """Name of any torchvision classification model."""
    small_stem: bool = False
    """ResNets only: 3x3 stride-1 stem without max-pool, for pictures of about 32 px."""
    hidden_dim: int = 2048
    """Width of the projection head's hidden layer; 0 makes the head one linear layer."""
    embedding_dim: int = 128
    """Width D of the embeddings."""
    num_prototypes: int = 3000
    """K. About ten times the number of classes one expects; (batch + queue) / K should exceed 1."""

    def __post_init__(self) -> None:
        _require(self.hidden_dim >= 0, f"hidden_dim must not be negative, got {self.hidden_dim}")
        _require(self.embedding_dim >= 1, f"embedding_dim must be >= 1, got {self.embedding_dim}")
        _require(
            self.num_prototypes >= 2, f"num_prototypes must be >= 2, got {self.num_prototypes}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RampConfig:
    """A value that moves linearly from `start` to `end` over `steps` steps and then stays."""

    start: float
    """Value at step 0."""
    end: float
    """Value from step `steps` on."""
    steps: int = 0
    """Length of the ramp in steps; 0 means `end` from the first step."""

    def __post_init__(self) -> None:
        _require(self.start > 0, f"start must be positive, got {self.start}")
        _require(self.end > 0, f"end must be positive, got {self.end}")
        _require(self.steps >= 0, f"steps must not be negative, got {self.steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesConfig:
    """Codes by Sinkhorn-Knopp (paper section 3.1) and the loss that predicts them."""

    epsilon: RampConfig = field(default_factory=lambda: RampConfig(start=0.05, end=0.05))
    """Entropy weight; smaller is sharper. Sharp codes at the start leave loss = log K sooner."""
    iterations: int = 3
    """Sinkhorn-Knopp iterations."""
    temperature: RampConfig = field(default_factory=lambda: RampConfig(start=0.1, end=0.1))
    """Softmax temperature of the prediction."""
    freeze_prototypes_steps: int = 300
    """Steps at the start in which the prototypes do not move (official: the first epoch)."""

    def __post_init__(self) -> None:
        _require(self.iterations >= 1, f"iterations must be >= 1, got {self.iterations}")
        _require(
            self.freeze_prototypes_steps >= 0,
            f"freeze_prototypes_steps must not be negative, got {self.freeze_prototypes_steps}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Past embeddings that steady the codes when the batch is small (paper section 4.1)."""

    length: int = 0
    """Embeddings kept per assigned view, over all ranks; 0 switches the queue off."""
    start_step: int = 0
    """First step that stores embeddings; they count once the queue is full."""

    def __post_init__(self) -> None:
        _require(self.length >= 0, f"length must not be negative, got {self.length}")
        _require(self.start_step >= 0, f"start_step must not be negative, got {self.start_step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Photometric augmentation of every crop (official order and probabilities)."""

    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    """Strength of brightness, contrast, saturation, hue."""
    jitter_p: float = 0.8
    """Probability of colour jitter."""
    grayscale_p: float = 0.2
    """Probability of grayscale."""
    blur_p: float = 0.5
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma, in pixels of the crop."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted per channel after scaling to [0, 1]."""
    std: tuple[float, float, float] = (0.228, 0.224, 0.225)
    """Divided by per channel (the official 0.228, not 0.229)."""

    def __post_init__(self) -> None:
        for name in ("jitter_p", "grayscale_p", "blur_p"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} must lie in [0, 1], got {value}")
        _require(all(j >= 0 for j in self.jitter), f"jitter must not be negative: {self.jitter}")
        _require(self.jitter[3] <= 0.5, f"the hue jitter must be at most 0.5: {self.jitter}")
        _require(0 < self.blur_sigma[0] <= self.blur_sigma[1], f"blur_sigma: {self.blur_sigma}")
        _require(all(s > 0 for s in self.std), f"std must be positive: {self.std}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """The optimizer and its rate."""

    kind: Literal["lars", "sgd", "adamw"] = "lars"
    """LARS for large batches, SGD or AdamW for small ones."""
    lr: float = 0.6
    """Rate after the warm-up, for the whole global batch as configured: no scaling is applied."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Running averages of AdamW."""
    weight_decay: float = 1e-6
    """Decay of weight matrices and kernels."""
    trust_coefficient: float = 0.001
    """LARS: local rate per ratio of weight norm to gradient norm."""
    decay_all: bool = False
    """Decay and trust scaling on 1-d parameters (biases, batch norm) too, as the official code."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"lr must be positive, got {self.lr}")
        _require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        _require(all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1): {self.betas}")
        _require(self.weight_decay >= 0, f"weight_decay is negative: {self.weight_decay}")
        _require(self.trust_coefficient > 0, f"trust_coefficient: {self.trust_coefficient}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The rate over steps. A stream has no end, hence `hold` is the default."""

    kind: Literal["hold", "cosine", "linear", "sqrt"] = "hold"
    """After the warm-up: constant, or falling to `final_lr` at `total_steps` as a half cosine, a
    straight line, or 1 - sqrt."""
    warmup_steps: int = 500
    """Steps of linear warm-up."""
    warmup_lr: float = 0.0
    """Rate at step 0 of the warm-up."""
    total_steps: int | None = None
    """Not with hold: the step at which the rate reaches `final_lr` and stays."""
    decay_steps: int | None = None
    """Not with hold: the rate falls over this many last steps alone; None: since the warm-up."""
    final_lr: float = 0.0
    """Not with hold: the last rate."""

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, f"warmup_steps is negative: {self.warmup_steps}")
        _require(self.warmup_lr >= 0, f"warmup_lr is negative: {self.warmup_lr}")
        _require(self.final_lr >= 0, f"final_lr is negative: {self.final_lr}")
        if self.kind == "hold":
            for name in ("total_steps", "decay_steps"):
                _require(getattr(self, name) is None, f"{name} has no meaning with kind=hold")
            return
        _require(self.total_steps is not None, f"total_steps is needed with kind={self.kind}")
        most = (self.total_steps or 0) - self.warmup_steps
        _require(
            most > 0,
            f"total_steps ({self.total_steps}) must exceed warmup_steps ({self.warmup_steps})",
        )
        _require(
            self.decay_steps is None or 1 <= self.decay_steps <= most,
            f"decay_steps ({self.decay_steps}) must lie between 1 and the {most} steps after the "
            "warm-up",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """When the signs of collapse become findings."""

    window_images: int = 4096
    """Images over which prototype usage and the embedding spectrum are measured."""
    stuck_after_steps: int = 500
    """Steps that the start lasts at least: most findings, and collapse, wait for its end. Loss =
    log K only counts as stuck that many steps after warm-up, freeze and ramps."""
    inspect_every_steps: int = 50
    """Steps between two inspections: prototypes, batch norm's gap, the queue's staleness."""
    max_nonfinite_steps: int = 3
    """Non-finite losses in a row that are skipped; then the run rolls back (`act`) or ends."""

    def __post_init__(self) -> None:
        _require(self.window_images >= 2, f"window_images must be >= 2, got {self.window_images}")
        _require(self.stuck_after_steps >= 0, f"stuck_after_steps: {self.stuck_after_steps}")
        _require(self.inspect_every_steps >= 1, f"inspect_every_steps: {self.inspect_every_steps}")
        _require(self.max_nonfinite_steps >= 1, f"max_nonfinite_steps: {self.max_nonfinite_steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """Everything that decides what one step does to the weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Network and prototypes."""
    codes: CodesConfig = field(default_factory=CodesConfig)
    """Sinkhorn-Knopp and the loss."""
    queue: QueueConfig = field(default_factory=QueueConfig)
    """Feature queue."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Colour, blur, normalisation."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Rate over steps."""
    health: HealthConfig = field(default_factory=HealthConfig)
    """Findings."""
    autocast: Literal["off", "bf16"] = "off"
    """Precision of the network; codes and loss are float32 always."""
    channels_last: bool = True
    """Memory layout of the crops and the network."""
    sync_batch_norm: bool = False
    """Batch norm statistics over all ranks."""
