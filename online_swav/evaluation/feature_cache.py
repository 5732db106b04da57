"""Features on disk: one file for each trunk, data set, and size of pictures.

A file that was made of something else, or whose header or length is wrong, is passed over and made
anew. The numbers in it carry no checksum: delete the folder after a fault of the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from online_swav.errors import ConfigError

FORMAT = "2"
"""Another one for every change of what features are made of, or how they are named."""


class FeatureCache:
    """A folder of features.

    Args:
        folder: Made if missing; may be shared by several evaluations.

    Raises:
        ConfigError: If it cannot be written: better before the features are made than after.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error.strerror) from error
        if not os.access(folder, os.W_OK):
            raise self._refused("no permission")

    def get(self, key: str) -> tuple[Float[Tensor, "N F"], Int64[Tensor, " N"]] | None:
        """Features, and the positions of their images in the data set; None if there are none.

        Args:
            key: Names trunk, data and preprocessing.
        """
        try:
            with safe_open(self._path(key), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key or metadata.get("format") != FORMAT:
                    return None
                return file.get_tensor("features"), file.get_tensor("indices")
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, features: Float[Tensor, "N F"], indices: Int64[Tensor, " N"]) -> None:
        """Keep features; whole or not at all.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        path = self._path(key)
        staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file({"features": features.contiguous(), "indices": indices.contiguous()},
                      staging, metadata={"key": key, "format": FORMAT})  # fmt: skip
            staging.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                staging.unlink(missing_ok=True)
            raise self._refused(error) from error

    def _refused(self, why: object) -> ConfigError:
        return ConfigError(
            f"--cache {self._folder} cannot be written ({why}); make room or name another folder"
        )

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        return self._folder / f"features-{name}.safetensors"
