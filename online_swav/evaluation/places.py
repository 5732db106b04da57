"""Where labelled images are: the places of their bytes, with their labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from streams.errors import DecodeError
from streams.storage import fingerprint


class UnreadError(DecodeError):
    """The file of an image is gone, cannot be read, or is another one by now."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one image are."""

    path: str
    """Of the tar, or of the image."""
    fingerprint: str
    """Of that file, when it was found."""
    at: int
    """First byte of the image in it."""
    size: int
    """Bytes of the image."""
    name: str
    """Of the image, as lists of images have it: its key in the tar, or its path."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UnreadError: If the file is gone, cannot be read, or is another one by now.
        """
        try:
            with Path(self.path).open("rb", buffering=0) as file:
                now = fingerprint(os.fstat(file.fileno()))
                data = os.pread(file.fileno(), self.size, self.at)
        except OSError as error:
            raise UnreadError(f"{self.path}: {error.strerror}", reason="corrupt") from error
        if now != self.fingerprint:
            raise UnreadError(f"{self.path} changed since it was listed", reason="corrupt")
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Labelled images that were found, not yet decoded."""

    places: tuple[Place, ...]
    labels: tuple[tuple[int, ...], ...]
    """Of each place; exactly one unless `multi_label`."""
    multi_label: bool
    class_names: tuple[str, ...]
    """By label; empty where only numbers are known."""
