"""Tiny learners for the tests of this folder."""

import dataclasses

import pytest
import torch

from online_swav.learning.config import (
    CodesConfig,
    HealthConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    QueueConfig,
    RampConfig,
    ScheduleConfig,
)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors: a pool of threads costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config():
    """A small learner's configuration; keyword arguments replace whole sections."""

    def build(**sections):
        base = LearnerConfig(
            model=ModelConfig(
                backbone="shufflenet_v2_x0_5", hidden_dim=16, embedding_dim=8, num_prototypes=12
            ),
            codes=CodesConfig(
                epsilon=RampConfig(start=0.02, end=0.05, steps=10), freeze_prototypes_steps=3
            ),
            queue=QueueConfig(length=10, start_step=2),
            optim=OptimConfig(kind="lars", lr=0.5),
            schedule=ScheduleConfig(warmup_steps=5),
            health=HealthConfig(window_images=16, stuck_after_steps=0),
        )
        return dataclasses.replace(base, **sections)

    return build


@pytest.fixture
def batches():
    """`batches(n)`: n batches of 4 images, two large views and a small one; always the same."""

    def build(num, sides=(24, 16)):
        generator = torch.Generator().manual_seed(5)
        return [
            [
                torch.randint(0, 256, (views, 4, 3, side, side), dtype=torch.uint8,
                              generator=generator)
                for views, side in zip((2, 1), sides, strict=True)
            ]
            for _ in range(num)
        ]  # fmt: skip

    return build
