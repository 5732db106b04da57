"""`online-swav evaluate`: a run's newest encoder beside its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from online_swav.assemble import choose_device, load_probe_images
from online_swav.checkpoint import Checkpoints
from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.evaluation.features import extract_features, raw_pixel_features
from online_swav.evaluation.knn import knn_accuracy
from online_swav.learning.learner import Learner


def knn_report(config: RunConfig) -> dict[str, Any]:
    """k-NN accuracy of the newest checkpoint, of random weights, and of raw pixels.

    Raises:
        ConfigError: If the run has no checkpoint or the labelled shards cannot be used.
        CheckpointError: If no checkpoint is whole.
    """
    newest = Checkpoints(Path(config.run), keep=config.checkpoint.keep).latest()
    if newest is None:
        raise ConfigError(f"{config.run} has no checkpoint yet")
    train, test = load_probe_images(config)
    device = choose_device(config)
    augment, probe = config.learner.augment, config.probe

    def accuracy(backbone: nn.Module | None) -> float:
        features = [
            raw_pixel_features(images.images)
            if backbone is None
            else extract_features(backbone, images.images.split(256), mean=augment.mean,
                                  std=augment.std, device=device)
            for images in (train, test)
        ]  # fmt: skip
        return knn_accuracy(features[0], train.labels, features[1], test.labels, k=probe.k,
                            temperature=probe.temperature)  # fmt: skip

    learner = Learner(config.learner, device=device, seed=config.seed)
    random = accuracy(learner.model.backbone)
    learner.load_state_dict(newest.learner_state())
    return {
        "step": newest.manifest.step,
        "samples_seen": newest.manifest.samples_seen,
        "k": probe.k,
        "temperature": probe.temperature,
        "train_images": len(train.labels),
        "test_images": len(test.labels),
        "knn_accuracy": {
            "encoder": accuracy(learner.model.backbone),
            "random weights": random,
            "raw pixels": accuracy(None),
        },
    }


def print_knn(report: dict[str, Any]) -> None:
    """The report as a table."""
    table = Table(
        title=f"weighted k-NN, k {report['k']}, temperature {report['temperature']}: "
        f"{report['test_images']} images among {report['train_images']}",
        title_justify="left",
    )
    table.add_column("features")
    table.add_column("top-1", justify="right")
    for name, value in report["knn_accuracy"].items():
        step = f" at step {report['step']}" if name == "encoder" else ""
        table.add_row(name + step, f"{value:.4f}")
    Console().print(table)
