"""Learn image representations with SwAV from a stream of WebDataset shards that never ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from online_swav.encoder import Encoder

__all__ = ["Encoder"]


def __getattr__(name: str) -> object:
    """`online_swav.Encoder`, imported when it is asked for: torch takes its time."""
    if name == "Encoder":
        from online_swav.encoder import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
