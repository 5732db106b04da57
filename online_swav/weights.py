"""Trained weights, wherever they lie: a run, a published encoder, a checkpoint, a file.

A file is one of

    X.safetensors             a torchvision trunk
    X.pth, X.pth.tar, X.pt    a torchvision state dict, or a checkpoint of facebookresearch/swav:
                              `state_dict`, its names with `module.` before them

Whatever its layout, the names here are torchvision's for the trunk, without its classifier, and
`projection_head.*` and `prototypes.weight` for the rest. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import RunConfig, load_yaml
from online_swav.errors import CheckpointError, ConfigError
from online_swav.published import (
    BACKBONE,
    CARD,
    HEAD,
    Published,
    PublishedEncoder,
    encoder_card,
)

PLACES = (
    "a run folder, a published/step-... folder, a checkpoints/step-... folder, or a .safetensors "
    "or .pth file"
)
_HEAD = ("projection_head.", "prototypes.")
_CLASSIFIERS = ("fc.", "classifier.", "heads.", "head.", "aux1.", "aux2.", "AuxLogits.")
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: Any = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype, type(np.dtype(np.float64)),
]  # fmt: skip
"""NumPy's numbers: checkpoints of facebookresearch/swav have them in their optimizer's state."""
_NAMED = 3
"""Tensors that a message names."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights and what is known of them."""

    place: Path
    """The folder or file that they are from."""
    stamp: float
    """Tells apart two at the same place: when it was made, unix seconds."""
    backbone: dict[str, Tensor]
    """With torchvision's names; its classifier too where the file has it."""
    head: dict[str, Tensor]
    """`projection_head.*` and `prototypes.weight`; empty without."""
    card: dict[str, Any] | None
    """None for a file without one."""


def read_weights(path: Path | str) -> Weights:
    """The weights at `path`; of a run the newest published ones, else its newest checkpoint.

    Raises:
        ConfigError: If there are none, or they cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return _file(path)
    if not path.exists():
        raise ConfigError(f"there is nothing at {path}; give {PLACES}")
    if (path / CARD).exists():
        return _published(path)
    if (path / "manifest.json").exists():
        try:
            return _checkpoint(Checkpoints.load(path))
        except CheckpointError as error:
            raise ConfigError(f"{error}; take another checkpoint of the run") from error
    if is_run(path):
        return _run(path)
    raise ConfigError(f"{path} is no run and no encoder; give {PLACES}")


def fit(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """What of `given` goes into a module with the state `own`, and what is in the way, in words.

    A classifier that the module does not have is left away. Counters of batches may be missing:
    old files have none.
    """
    taken: dict[str, Tensor] = {}
    misfits: list[str] = []
    for name, tensor in own.items():
        value = given.get(name)
        if value is None:
            if name.endswith("num_batches_tracked"):
                taken[name] = tensor
            else:
                misfits.append(f"{name} is missing")
        elif value.shape != tensor.shape:
            misfits.append(f"{name} is {list(value.shape)}, and {list(tensor.shape)} here")
        elif not value.isfinite().all():
            misfits.append(f"{name} holds values that are not finite")
        else:
            taken[name] = value
    misfits += [
        f"{name} is unknown here" for name in given
        if name not in own and not name.startswith(_CLASSIFIERS)
    ]  # fmt: skip
    return taken, misfits


def misfits_in_words(misfits: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f"; and {len(misfits) - _NAMED} more" if len(misfits) > _NAMED else ""
    return "; ".join(misfits[:_NAMED]) + more


def is_run(path: Path) -> bool:
    """Whether a run lives, or lived, in this folder."""
    return any((path / name).exists() for name in ("config.yaml", "published", "checkpoints"))


def newest_of_run(run: Path) -> tuple[Path, float] | None:
    """Place and stamp of what `read_weights(run)` reads, unless it is damaged; None before that."""
    published = _newest_published(run)
    if published is not None:
        return published.path, published.at
    return Checkpoints(run, keep=1).newest_unproven()


def _run(run: Path) -> Weights:
    while (newest := _newest_published(run)) is not None:
        try:
            return _published(newest.path)
        except ConfigError:
            again = _newest_published(run)
            if again is None or again.path == newest.path:
                raise
            # It was pruned while it was read, and there is a newer one.
    checkpoint = _newest_checkpoint(run)
    if checkpoint is None:
        raise ConfigError(f"{run} has neither a published encoder nor a checkpoint yet: train it")
    return _checkpoint(checkpoint)


def _newest_published(run: Path) -> PublishedEncoder | None:
    try:
        return Published(run, keep=1).newest()
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _newest_checkpoint(run: Path) -> Checkpoint | None:
    try:
        return Checkpoints(run, keep=1).latest()
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _published(folder: Path) -> Weights:
    card = _card(folder / CARD)
    backbone = _safetensors(folder / BACKBONE)
    head = _safetensors(folder / HEAD) if (folder / HEAD).exists() else {}
    if not folder.exists():  # pruned while it was read: what is missing then is no sign
        raise ConfigError(f"{folder} is gone: the run has published newer encoders")
    return Weights(folder, float(card.get("published_at", 0.0)), backbone, head, card)


def _checkpoint(checkpoint: Checkpoint) -> Weights:
    config = load_yaml(checkpoint.path / "config.yaml", RunConfig())
    try:
        state = checkpoint.learner_state()["model"]
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{checkpoint.path} cannot be read: {_first_line(error)}") from error
    manifest = checkpoint.manifest
    card = encoder_card(
        config, samples_seen=manifest.samples_seen, verdict=manifest.verdict,
        probe=manifest.probes[-1] if manifest.probes else None,
    ) | {"step": manifest.step}  # fmt: skip
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return Weights(checkpoint.path, manifest.created_at, backbone, _head_of(state), card)


def _file(path: Path) -> Weights:
    state = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    cards = (path.with_name(f"{path.name}.card.json"), path.with_name(CARD))
    card = next((_card(place) for place in cards if place.exists()), None)
    head = _head_of(state)
    backbone = {k: v for k, v in state.items() if k not in head}
    return Weights(path, path.stat().st_mtime, backbone, head, card)


def _torch_file(path: Path) -> dict[str, Tensor]:
    if path.suffix in (".pt2", ".onnx"):
        raise ConfigError(f"{path} is a program, not weights; give {PLACES}")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own words advise to unpickle anything
        raise ConfigError(
            f"{path} is no file of weights: damaged, or with more in it than tensors by name"
        ) from error
    except Exception as error:  # any text is a program to it, and ends in any error
        raise ConfigError(f"{path} is no file of weights: {_first_line(error)}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"{path} holds no state dict: neither tensors by name nor `state_dict` with them"
        )
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _head_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(_HEAD)}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is no whole safetensors file: {_first_line(error)}") from error


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
        if not isinstance(card, dict):
            raise ValueError(f"a {type(card).__name__} instead of an object")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the card {path} cannot be read: {_first_line(error)}") from error
    return card


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].partition(". ")[0] if lines else type(error).__name__
