"""Do checkpoints and published encoders fit? And can the network be built at all?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, ok, refusal, warning

FEWEST_CHECKPOINTS = 2
"""A new checkpoint is written before the one before it goes."""
SMALLEST_FREE_SHARE = 0.1
_MOMENTS = {"lars": 1, "sgd": 1, "adamw": 2}
_CODED_VIEWS = 2


def disk_checks(config: RunConfig) -> list[Check]:
    """Room for what the run keeps, measured by the last checkpoint or by the network."""
    run = Path(config.run)
    folder = existing_folder(run / "checkpoints")
    size, there = _newest_checkpoint(run)
    if size is None:
        try:
            size = _estimate(config)
        except ValueError as error:
            return [refusal("model", str(error), final=True)]
    disk = shutil.disk_usage(folder)
    kept = config.checkpoint.keep
    need = size * max(kept + FEWEST_CHECKPOINTS - there, FEWEST_CHECKPOINTS)
    encoder = size // (1 + _MOMENTS[config.learner.optim.kind])  # no moments are published
    need += encoder * max(kept - len(list((run / "published").glob("step-*"))), 0)
    numbers = (
        f"{_size(disk.free)} of {_size(disk.total)} are free under {folder}; a checkpoint takes "
        f"{_size(size)}, the run {_size(need)}"
    )
    if there:
        numbers += f" beside the {there} that are there"
    advice = "Make room, choose another --run, or lower --checkpoint.keep."
    if disk.free < size * FEWEST_CHECKPOINTS:
        fit = disk.free // size
        return [refusal("disk", f"{numbers}: {fit} fit, and {FEWEST_CHECKPOINTS} must. {advice}")]
    if disk.free < need:
        return [warning("disk", f"{numbers} (--checkpoint.keep {kept}). {advice}")]
    if disk.free < SMALLEST_FREE_SHARE * disk.total:
        return [warning("disk", f"{numbers}: less than {SMALLEST_FREE_SHARE:.0%} of the disk is "
                        "free, and whatever else writes there may fill it.")]  # fmt: skip
    return [ok("disk", numbers)]


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.is_dir():
        path = path.parent
    return path


def _newest_checkpoint(run: Path) -> tuple[int | None, int]:
    """Bytes of the newest checkpoint, None without one; and how many there are."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    for folder in reversed(folders):
        try:
            files = json.loads((folder / "manifest.json").read_text())["files"]
            return sum(int(entry["size_bytes"]) for entry in files.values()), len(folders)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return None, len(folders)


def _estimate(config: RunConfig) -> int:
    """Bytes of a checkpoint: weights, moments, statistics, queue. Allocates nothing.

    Raises:
        ValueError: If the network cannot be built.
    """
    import torch

    from online_swav.learning.model import SwavModel

    model = config.learner.model
    with torch.device("meta"):
        network = SwavModel(
            backbone=model.backbone, small_stem=model.small_stem, hidden_dim=model.hidden_dim,
            embedding_dim=model.embedding_dim, num_prototypes=model.num_prototypes,
        )  # fmt: skip
    parameters = sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for b in network.buffers())
    queue = _CODED_VIEWS * config.learner.queue.length * model.embedding_dim
    return 4 * (parameters * (1 + _MOMENTS[config.learner.optim.kind]) + statistics + queue)


def _size(num_bytes: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1e6:.0f} MB"
