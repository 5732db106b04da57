"""`published/`: the newest healthy encoders of a run, to be taken at any moment.

    published/
      latest.json               {"step": 1500, "folder": "step-000001500"}
      step-000001500/
        backbone.safetensors    the trunk with torchvision's names, without its classifier
        head.safetensors        projection head and prototypes
        card.json               step, images, verdict, probe, preprocessing, digest of the recipe,
                                lineage, newest shard (`encoder_card`)

A folder appears when it is whole. Nothing unhealthy comes here.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_swav.config import RunConfig, digest
from online_swav.durable import sync
from online_swav.errors import CheckpointError

if TYPE_CHECKING:  # the status actor asks for the newest one, and needs no torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

BACKBONE, HEAD, CARD = "backbone.safetensors", "head.safetensors", "card.json"


@dataclass(frozen=True, slots=True)
class PublishedEncoder:
    """The newest one."""

    path: Path
    step: int
    at: float
    """Unix seconds."""


def encoder_card(
    config: RunConfig, *, samples_seen: int, verdict: str, probe: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What an encoder says of itself, its step aside.

    Pictures are prepared as the probe sees them, but never smaller than the largest crop: a small
    probe only saves time.
    """
    recipe, crop = config.learner, max(family.size for family in config.crops)
    return {
        "samples_seen": samples_seen,
        "verdict": verdict,
        "probe": dict(probe) if probe else None,
        "backbone": recipe.model.backbone,
        "small_stem": recipe.model.small_stem,
        "preprocessing": {
            "size": max(crop, config.probe.size) if config.probe_train else crop,
            "mean": list(recipe.augment.mean),
            "std": list(recipe.augment.std),
        },
        "config_digest": digest(config),
    }


class Published:
    """The published encoders of one run.

    Args:
        run: The run folder.
        keep: Newest encoders that stay.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self._folder = run / "published"
        self._keep = keep

    def publish(
        self, backbone: nn.Module, *, step: int, card: dict[str, Any],
        head: Mapping[str, Tensor] | None = None,
    ) -> PublishedEncoder:  # fmt: skip
        """Write an encoder and make it the newest.

        Args:
            backbone: The trunk.
            step: Of the checkpoint that it is from.
            card: What `encoder_card` says, and more.
            head: `projection_head.*` and `prototypes.weight`.

        Raises:
            CheckpointError: If the disk refuses; the one before stays the newest.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        at = time.time()
        name = f"step-{step:09d}"
        if (self._folder / name).exists():  # of a branch that was rolled back
            name = f"{name}-{int(at * 1000)}"
        target, staging = self._folder / name, self._folder / f".{name}"
        try:
            for leftover in self._folder.glob(".step-*"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            staging.mkdir(parents=True)
            for part, state in ((BACKBONE, backbone.state_dict()), (HEAD, head or {})):
                tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
                if tensors:
                    save_file(tensors, staging / part)
            text = json.dumps(card | {"step": step, "published_at": at}, indent=1)
            (staging / CARD).write_text(text + "\n")
            for written in (*staging.iterdir(), staging):
                sync(written)
            staging.rename(target)
            pointer = self._folder / ".latest.json"
            pointer.write_text(json.dumps({"step": step, "folder": name, "published_at": at}))
            sync(pointer)
            pointer.replace(self._folder / "latest.json")
            sync(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(
                f"cannot publish the encoder of step {step} in {self._folder}: {error}. Make room "
                "or fix the permissions; the next healthy checkpoint tries again.",
                path=target,
            ) from error
        self._prune(target)
        return PublishedEncoder(target, step, at)

    def newest(self) -> PublishedEncoder | None:
        """The newest encoder; None before the first.

        Raises:
            CheckpointError: If the disk does not say, or `latest.json` is damaged.
        """
        path = self._folder / "latest.json"
        try:
            latest = json.loads(path.read_text())
            return PublishedEncoder(
                self._folder / latest["folder"], int(latest["step"]), float(latest["published_at"])
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); the run's next healthy checkpoint writes it "
                "anew, or name one of the folders beside it",
                path=path,
            ) from error

    def _prune(self, newest: Path) -> None:
        """By time, not by step: after a rollback a lower step is the newer one."""
        try:
            folders = sorted(self._folder.glob("step-*"), key=lambda path: path.stat().st_mtime)
            others = [folder for folder in folders if folder != newest]
            for folder in others[: max(0, len(others) + 1 - self._keep)]:
                # At once out of sight: who reads it meanwhile must not find a part of it.
                hidden = folder.with_name(f".{folder.name}")
                folder.rename(hidden)
                shutil.rmtree(hidden)
        except OSError as error:
            logger.warning("published_not_pruned folder=%s error=%r", self._folder, str(error))
