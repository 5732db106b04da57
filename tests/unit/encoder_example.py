"""A run folder with a checkpoint of an untrained model, and published encoders of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from online_swav.checkpoint import Checkpoints
from online_swav.config import RunConfig, to_yaml
from online_swav.learning.config import LearnerConfig, ModelConfig
from online_swav.learning.learner import Learner
from online_swav.published import Published, encoder_card
from streams.config import CropFamily
from streams.ledger_delta import Delta

SIZE, K, DIM = 32, 12, 8


def run_config(run: Path, **model: object) -> RunConfig:
    """A small recipe; keyword arguments are of the model."""
    return RunConfig(
        run=str(run), device="cpu",
        crops=(CropFamily(size=SIZE, num=2, scale=(0.3, 1.0)),),
        learner=LearnerConfig(model=ModelConfig(
            **({"backbone": "shufflenet_v2_x0_5", "hidden_dim": 16, "embedding_dim": DIM,
                "num_prototypes": K} | model))),
    )  # fmt: skip


def learner_of(config: RunConfig, *, seed: int = 0) -> Learner:
    """With batch norm's statistics unlike those of a new one."""
    learner = Learner(config.learner, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in learner.model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
    return learner


def checkpoint(config: RunConfig, learner: Learner, *, step: int) -> Path:
    """Write a checkpoint of the run."""
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(to_yaml(config))
    checkpoints = Checkpoints(run, keep=9)
    checkpoints.fence(1, resumed=checkpoints.latest())
    return checkpoints.publish(
        step=step, samples_seen=step * 4, parent_step=-1, created_at=float(step), verdict="ok",
        probes=(), learner_state=learner.state_dict(), config_yaml=to_yaml(config), generation=1,
        delta=Delta(step=step, parent_step=-1, version=step, shards=(), claims=(), rejects=(),
                    skips=()),
    ).path  # fmt: skip


def publish(config: RunConfig, learner: Learner, *, step: int, keep: int = 3) -> Path:
    """Put its encoder into `published/`."""
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(to_yaml(config))
    state = learner.model.state_dict()
    head = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    card = encoder_card(config, samples_seen=step * 4, verdict="ok", probe=None)
    published = Published(run, keep=keep)
    return published.publish(learner.model.backbone, step=step, card=card, head=head).path


def replace_model(config: RunConfig, **model: object) -> RunConfig:
    """The same with another model."""
    learner = dataclasses.replace(
        config.learner, model=dataclasses.replace(config.learner.model, **model)
    )
    return dataclasses.replace(config, learner=learner)
