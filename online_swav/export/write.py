"""Write an export with its card, prove it, and only then put both in their places."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.export.format import Format
from online_swav.export.load_back import LoadBack, load_back


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A proven export."""

    out: Path
    card: Path
    size_bytes: int
    notes: tuple[str, ...]
    how_to_load: str
    check: LoadBack


def require_writable(format: Format, out: Path) -> None:
    """Look at what is needed before anything is loaded.

    Raises:
        ConfigError: If the name, the folder or the libraries are not right.
    """
    if not out.name.endswith(format.suffixes):
        wanted = " or ".join(format.suffixes)
        raise ConfigError(f"--out {out}: a file of --format {format.name} ends with {wanted}")
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"lies in {out.parent}, which is no folder"
        raise ConfigError(f"--out {out} {what}; give a file in a folder that exists")
    missing = [name for name in format.libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format {format.name} needs {', '.join(missing)}: "
            f"pip install 'online-swav[{format.name}]'"
        )


def export_encoder(
    encoder: Encoder, format: Format, out: Path, *, pictures: Sequence[Tensor]
) -> Exported:
    """Write `out` and `out.card.json`.

    Args:
        encoder: On the CPU.
        format: Of the file.
        out: Replaced if it exists, once the new one is proven.
        pictures: Batches of uint8 [N, 3, H, W] on which file and encoder are compared.

    Raises:
        ConfigError: If the encoder has no such form, or `out` cannot be written.
        OnlineSwavError: If the file does not give the encoder's features; nothing is left of it.
    """
    require_writable(format, out)
    format.check(encoder)
    staging = out.with_name(f".{out.name}")
    card_path = out.with_name(f"{out.name}.card.json")
    staging_card = out.with_name(f".{card_path.name}")
    how_to_load = format.how_to_load(encoder)
    card = encoder.card | {"feature_dim": encoder.feature_dim}
    try:
        notes = _write(encoder, format, staging, card)
        check = load_back(staging, how_to_load=how_to_load, encoder=encoder, pictures=pictures)
        size_bytes = staging.stat().st_size
        with staging.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        card |= {
            "export": {
                "format": format.name, "file": out.name, "size_bytes": size_bytes,
                "sha256": digest, "notes": notes, "online_swav": version("online-swav"),
            },
            "check": dataclasses.asdict(check),
            "how_to_load": [f'FILE = "{out.name}"', *how_to_load.splitlines()],
        }  # fmt: skip
        staging_card.write_text(json.dumps(card, indent=1) + "\n")
        staging.replace(out)
        staging_card.replace(card_path)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from error
    finally:
        staging.unlink(missing_ok=True)
        staging_card.unlink(missing_ok=True)
    return Exported(out=out, card=card_path, size_bytes=size_bytes, notes=notes,
                    how_to_load=how_to_load, check=check)  # fmt: skip


def _write(
    encoder: Encoder, format: Format, staging: Path, card: dict[str, Any]
) -> tuple[str, ...]:
    """Write with the format's library; each says in its own way that the disk refuses."""
    staging.touch()  # a folder that cannot be written to says so here
    try:
        return format.write(encoder, staging, card)
    except (RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(staging.parent).free
        why = str(error).splitlines()[0]
        raise OSError(errno.EIO, f"{free} bytes are free there ({why})") from error
