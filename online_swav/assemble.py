"""From a RunConfig to the parts of one learner rank: device, learner with its state, probe."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from online_swav.books import rebuild
from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.evaluation.data import LabelledImages
from online_swav.evaluation.features import extract_features
from online_swav.evaluation.knn import knn_accuracy
from online_swav.evaluation.pairs import labelled_pair
from online_swav.learning.learner import Learner
from online_swav.learning.ranks import Ranks
from online_swav.parallel import wrapper
from online_swav.warm_start import warm_start
from streams.ledger import Ledger

logger = logging.getLogger(__name__)


def choose_device(config: RunConfig) -> torch.device:
    """The device of `config.device`.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here; use --device cpu or auto")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def learner_threads(config: RunConfig, *, ranks: int) -> int:
    """CPU threads of one learner: as configured, or the machine's cores shared evenly."""
    return config.threads or max(1, (os.cpu_count() or 1) // ranks)


def compiles(config: RunConfig, device: torch.device) -> bool:
    """Whether the learner goes through torch.compile: as configured, or on a GPU."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")


def start_learner(
    config: RunConfig, *, ranks: Ranks, device: torch.device
) -> tuple[Learner, Checkpoint | None]:
    """A learner with the state of the newest whole checkpoint; without one a new or warm start.

    Raises:
        CheckpointError: If there are checkpoints and none is whole.
        ConfigError: If no learner can be made of this config, or the checkpoint is of another one.
    """
    wrap = wrapper(ranks, device=device, sync_batch_norm=config.learner.sync_batch_norm)
    newest = Checkpoints(Path(config.run), keep=config.checkpoint.keep).latest()
    try:
        learner = Learner(config.learner, device=device, ranks=ranks, seed=config.seed, wrap=wrap,
                          compile=compiles(config, device))  # fmt: skip
        if newest is not None:
            learner.load_state_dict(newest.learner_state())
        else:
            warm_start(config, learner, ranks=ranks)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if newest is not None:
        logger.info("resumed step=%d samples=%d", learner.step_count, learner.samples_seen)
    return learner, newest


def build_probe(config: RunConfig, *, device: torch.device) -> Callable[[nn.Module], float] | None:
    """Measures k-NN accuracy of a backbone on the labelled shards; None without any.

    Raises:
        ConfigError: If the labelled shards cannot be used.
    """
    if not config.probe_train:
        return None
    train, test = load_probe_images(config)
    augment, probe = config.learner.augment, config.probe

    def measure(backbone: nn.Module) -> float:
        features = [
            extract_features(backbone, images.images.split(256), mean=augment.mean,
                             std=augment.std, device=device)
            for images in (train, test)
        ]  # fmt: skip
        return knn_accuracy(features[0], train.labels, features[1], test.labels, k=probe.k,
                            temperature=probe.temperature)  # fmt: skip

    return measure


def load_probe_images(config: RunConfig) -> tuple[LabelledImages, LabelledImages]:
    """The labelled images of the probe: neighbours, then held-out ones, of the same classes.

    Raises:
        ConfigError: If a pattern matches no shard, the shards hold no labels, or the classes of
            the two sides do not fit.
    """
    flags = ("--probe-train", "--probe-test")
    sides = labelled_pair(
        config.probe_train, config.probe_test, size=config.probe.size, limit=config.probe.limit,
        limits=config.ingest.limits, flags=flags,
    )  # fmt: skip
    if sides[0].multi_label:
        raise ConfigError(f"{flags[0]}: the probe needs one label for each image (KEY.cls)")
    loaded = []
    for flag, side in zip(flags, sides, strict=True):
        try:
            loaded.append(side.held())
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error}") from error
    return loaded[0], loaded[1]


def open_ledger(config: RunConfig) -> Ledger:
    """The run's book; rebuilt from the checkpoints' deltas when its file is gone.

    Raises:
        LedgerError: If the book is damaged.
        CheckpointError: If it is gone and a delta is missing.
    """
    path = Path(config.run) / "ledger.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and (path.parent / "checkpoints" / "latest").exists():
        logger.warning("ledger_lost: %s", rebuild(path.parent))
    return Ledger(path, lease_s=config.ingest.lease_s, max_attempts=config.ingest.max_attempts,
                  budget=config.budget)  # fmt: skip
