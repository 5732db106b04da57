"""`published/`: the newest healthy encoders of a run, to be taken at any moment.

    published/
      latest.json               {"step": 1500, "folder": "step-000001500"}
      step-000001500/
        backbone.safetensors    the trunk with torchvision's names, without its classifier
        card.json               step, images, verdict, probe, preprocessing, digest of the recipe

A folder appears when it is whole. Nothing unhealthy comes here.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_swav.errors import CheckpointError

if TYPE_CHECKING:  # the status actor asks for the newest one, and needs no torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class PublishedEncoder:
    """The newest one."""

    path: Path
    step: int
    at: float
    """Unix seconds."""


class Published:
    """The published encoders of one run.

    Args:
        run: The run folder.
        keep: Newest encoders that stay.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self._folder = run / "published"
        self._keep = keep

    def publish(self, backbone: nn.Module, *, step: int, card: dict[str, Any]) -> PublishedEncoder:
        """Write an encoder and make it the newest.

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
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            tensors = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
            save_file(tensors, staging / "backbone.safetensors")
            text = json.dumps(card | {"step": step, "published_at": at}, indent=1)
            (staging / "card.json").write_text(text + "\n")
            staging.rename(target)
            pointer = self._folder / ".latest.json"
            pointer.write_text(json.dumps({"step": step, "folder": name, "published_at": at}))
            pointer.replace(self._folder / "latest.json")
            self._prune()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(
                f"cannot publish the encoder of step {step} in {self._folder}: {error}. Make room "
                "or fix the permissions; the next healthy checkpoint tries again.",
                path=target,
            ) from error
        return PublishedEncoder(target, step, at)

    def newest(self) -> PublishedEncoder | None:
        """The newest encoder; None before the first."""
        try:
            latest = json.loads((self._folder / "latest.json").read_text())
            return PublishedEncoder(
                self._folder / latest["folder"], int(latest["step"]), float(latest["published_at"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _prune(self) -> None:
        """By time, not by step: after a rollback a lower step is the newer one."""
        folders = sorted(self._folder.glob("step-*"), key=lambda path: path.stat().st_mtime)
        for folder in folders[: -self._keep]:
            shutil.rmtree(folder)
