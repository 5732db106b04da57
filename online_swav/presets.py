"""Named recipes. Each says where its numbers come from."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from online_swav.config import CheckpointConfig, ProbeConfig, RunConfig
from online_swav.errors import ConfigError
from online_swav.learning.config import (
    AugmentConfig,
    CodesConfig,
    HealthConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    QueueConfig,
    RampConfig,
    ScheduleConfig,
)
from streams.config import CropFamily, IngestConfig, SourceConfig


def _demo() -> RunConfig:
    """The embedded synthetic stream: 48 px pictures, a ResNet-18, minutes on two cores.

    Tried on it: epsilon 0.02 stays at loss = log K; 0.01 leaves it within 100 steps. On a CPU in
    bf16 no crop is under 20 px: torch 2.14 gives wrong gradients for 1x1 feature maps there.
    """
    return RunConfig(
        crops=(
            CropFamily(size=32, num=2, scale=(0.5, 1.0)),
            CropFamily(size=20, num=2, scale=(0.15, 0.4)),
        ),
        discovery=SourceConfig(poll_s=1.0, settle_s=5.0),
        ingest=IngestConfig(batch_size=64, window=512),
        learner=LearnerConfig(
            model=ModelConfig(hidden_dim=512, num_prototypes=48),
            codes=CodesConfig(epsilon=RampConfig(start=0.01, end=0.01), freeze_prototypes_steps=20),
            augment=AugmentConfig(jitter=(0.4, 0.4, 0.4, 0.2), grayscale_p=0.3, blur_p=0.1),
            optim=OptimConfig(kind="adamw", lr=5e-4, weight_decay=1e-4),
            schedule=ScheduleConfig(warmup_steps=30),
            health=HealthConfig(window_images=2048, stuck_after_steps=200),
            autocast="bf16",
        ),
        checkpoint=CheckpointConfig(every_steps=100, every_s=60),
        probe=ProbeConfig(every_steps=75, size=48, limit=1000),
    )


def _imagenette_cpu() -> RunConfig:
    """Imagenette on two cores: ResNet-18, 48 px, K 64, sharp codes.

    Tried, k-NN of 2,000 images after 19,200 trained ones (random weights: 0.311): AdamW 1e-3,
    epsilon 0.012 to 0.03, K 128 with a queue of 256, jitter 0.8: 0.260, loss / log K 0.96.
    AdamW 3e-4, epsilon 0.01, K 64, jitter 0.4 (below): 0.333, loss / log K 0.81.
    """
    return RunConfig(
        crops=(
            CropFamily(size=48, num=2, scale=(0.25, 1.0)),
            CropFamily(size=24, num=4, scale=(0.08, 0.25)),
        ),
        ingest=IngestConfig(batch_size=128, window=2048),
        learner=LearnerConfig(
            model=ModelConfig(hidden_dim=512, num_prototypes=64),
            codes=CodesConfig(epsilon=RampConfig(start=0.01, end=0.01), freeze_prototypes_steps=30),
            augment=AugmentConfig(jitter=(0.4, 0.4, 0.4, 0.1)),
            optim=OptimConfig(kind="adamw", lr=3e-4, weight_decay=1e-4),
            schedule=ScheduleConfig(warmup_steps=30),
            health=HealthConfig(window_images=4096),
            autocast="bf16",
        ),
        checkpoint=CheckpointConfig(every_steps=100, every_s=120),
        probe=ProbeConfig(every_steps=150, size=64, limit=4000),
    )


def _imagenette() -> RunConfig:
    """Imagenette on a GPU, as lightly's benchmark (docs, Imagenette table; 0.861 at 200 epochs).

    ResNet-18, 2x128 + 6x64, batch 256, K 3000, head 512-2048-128, Adam at 1e-3. Here AdamW without
    a horizon, and a queue, because 256 images cannot share 3000 prototypes evenly.
    """
    return RunConfig(
        crops=(
            CropFamily(size=128, num=2, scale=(0.14, 1.0)),
            CropFamily(size=64, num=6, scale=(0.05, 0.14)),
        ),
        ingest=IngestConfig(actors=4, batch_size=256, window=2048),
        learner=LearnerConfig(
            model=ModelConfig(hidden_dim=2048, num_prototypes=3000),
            codes=CodesConfig(
                epsilon=RampConfig(start=0.015, end=0.05, steps=1000), freeze_prototypes_steps=37
            ),
            queue=QueueConfig(length=3840, start_step=555),
            optim=OptimConfig(kind="adamw", lr=1e-3, weight_decay=1e-6),
            schedule=ScheduleConfig(warmup_steps=37),
            autocast="bf16",
        ),
        probe=ProbeConfig(every_steps=370, size=128, limit=10000),
    )


def _swav_800ep_4096() -> RunConfig:
    """The official 800-epoch recipe (facebookresearch/swav, scripts/swav_800ep_pretrain.sh).

    64 GPUs x 64 images, K 3000, no queue, LARC at 4.8 after 10 epochs of warm-up from 0.3, cosine
    to 0.0048. One epoch of ImageNet is 313 steps. Decay and trust scaling on all parameters.
    """
    return RunConfig(
        learners=64,
        ingest=IngestConfig(actors=64, batch_size=64, window=4096),
        learner=LearnerConfig(
            model=ModelConfig(backbone="resnet50"),
            codes=CodesConfig(freeze_prototypes_steps=313),
            optim=OptimConfig(lr=4.8, decay_all=True),
            schedule=ScheduleConfig(
                kind="cosine", warmup_steps=3130, warmup_lr=0.3, total_steps=250_400,
                final_lr=0.0048,
            ),
            autocast="bf16",
            sync_batch_norm=True,
        ),
        probe=ProbeConfig(every_steps=3130, size=224, limit=25_000),
    )  # fmt: skip


def _swav_bs256() -> RunConfig:
    """The official small-batch recipe (facebookresearch/swav, swav_400ep_bs256_pretrain.sh).

    4 GPUs x 64 images, queue 3840 from epoch 15, LARC at 0.6, no warm-up, cosine to 0.0006 over
    400 epochs of 5005 steps, prototypes frozen for the first epoch.
    """
    return RunConfig(
        learners=4,
        ingest=IngestConfig(actors=8, batch_size=64, window=4096),
        learner=LearnerConfig(
            model=ModelConfig(backbone="resnet50"),
            codes=CodesConfig(freeze_prototypes_steps=5005),
            queue=QueueConfig(length=3840, start_step=75_075),
            optim=OptimConfig(lr=0.6, decay_all=True),
            schedule=ScheduleConfig(
                kind="cosine", warmup_steps=0, total_steps=2_002_000, final_lr=0.0006
            ),
            autocast="bf16",
            sync_batch_norm=True,
        ),
        probe=ProbeConfig(every_steps=5005, size=224, limit=25_000),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": _demo,
    "imagenette-cpu": _imagenette_cpu,
    "imagenette": _imagenette,
    "swav-800ep-4096": _swav_800ep_4096,
    "swav-bs256": _swav_bs256,
}


def preset(name: str, **over: Any) -> RunConfig:
    """The named recipe, with fields of `RunConfig` replaced by `over`.

    Raises:
        ConfigError: If there is no such preset; close names are suggested.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f", perhaps you meant {close[0]}" if close else ""
        raise ConfigError(
            f"there is no preset {name!r}{hint}; the presets are {', '.join(PRESETS)}"
        )
    return dataclasses.replace(PRESETS[name](), **over)
