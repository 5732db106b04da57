"""The encoder that made a file of embeddings, kept beside it: only its own queries fit the rows.

A run that goes on training publishes newer ones meanwhile, and deletes the older.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from online_swav.encoder import Encoder
from online_swav.published import BACKBONE, CARD, HEAD


def encoder_folder(out: Path) -> Path:
    """Where the encoder of a file of embeddings is."""
    return out.with_name(f"{out.name}.encoder")


def keep_encoder(encoder: Encoder, folder: Path) -> None:
    """Write an encoder as a folder that `Encoder.load` takes, whole or not at all.

    Raises:
        OSError: If the disk refuses.
    """
    weights = encoder.weights
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    for part, state in ((BACKBONE, weights.backbone), (HEAD, weights.head)):
        if not state:
            continue
        try:
            save_file({name: value.contiguous() for name, value in state.items()}, staging / part)
        except SafetensorError as error:  # its writer's word for a disk that refuses
            raise OSError(errno.EIO, str(error)) from error
    (staging / CARD).write_text(json.dumps(encoder.card, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def digest(encoder: Encoder) -> str:
    """Twelve hexadecimal digits naming the weights of the backbone, and how it sees pictures."""
    hashed = hashlib.blake2b(digest_size=6)
    hashed.update(json.dumps(encoder.card["preprocessing"], sort_keys=True).encode())
    state: dict[str, Tensor] = encoder.backbone.state_dict()
    for name, value in sorted(state.items()):
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
