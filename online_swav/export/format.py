"""What every export format has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_swav.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to take an encoder out."""

    name: str
    suffixes: tuple[str, ...]
    """A file of it ends with one of these."""
    check: Callable[[Encoder], None]
    """Raises ConfigError if the encoder has no such form."""
    write: Callable[[Encoder, Path, dict[str, Any]], tuple[str, ...]]
    """Writes encoder and card to a file; notes for the user."""
    how_to_load: Callable[[Encoder], str]
    """Python lines that need nothing of this package: from FILE to `encode(images)`, of uint8
    NumPy [N, 3, H, W], and to `scores(images)` where there are prototypes. The card carries them,
    and the check runs them."""
    libraries: tuple[str, ...] = ()
    """Modules that it needs beside the package's own."""


def anything(_encoder: Encoder) -> None:
    """Every encoder has this form."""
