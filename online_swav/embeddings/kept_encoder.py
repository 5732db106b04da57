"""The encoder that made a file of embeddings, kept beside it: only its own queries fit the rows.

A run that goes on training publishes newer ones meanwhile, and deletes the older.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from online_swav.encoder import Encoder
from online_swav.published import BACKBONE, CARD, HEAD
from online_swav.weights import read_weights


def encoder_folder(out: Path) -> Path:
    """Where the encoder of a file of embeddings is."""
    return out.with_name(f"{out.name}.encoder")


def keep_encoder(encoder: Encoder, folder: Path) -> None:
    """Write an encoder as a folder that `Encoder.load` takes, whole or not at all.

    Raises:
        ConfigError: If its weights are gone by now.
        OSError: If the disk refuses.
    """
    weights = read_weights(encoder.place)
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    for part, state in ((BACKBONE, weights.backbone), (HEAD, weights.head)):
        if state:
            save_file({name: value.contiguous() for name, value in state.items()}, staging / part)
    (staging / CARD).write_text(json.dumps(encoder.card, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def digest(encoder: Encoder) -> str:
    """Twelve hexadecimal digits naming the weights of the backbone."""
    hashed = hashlib.blake2b(digest_size=6)
    state: dict[str, Tensor] = encoder.backbone.state_dict()
    for name, value in sorted(state.items()):
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
