"""Refusing a saved state that belongs to another configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def require_same_layout(where: str, own: Any, given: Any) -> None:
    """Compare nested states: keys, shapes of tensors, and words. None in `own` fits anything.

    Args:
        where: Path of the values, for the message.
        own: State of the object that is to be loaded into.
        given: The saved state.

    Raises:
        ValueError: At the first difference; it names the path and both sides.
    """
    if own is None:
        return
    if isinstance(own, Mapping):
        if not isinstance(given, Mapping):
            raise ValueError(f"{where} should be a mapping, and is a {type(given).__name__}")
        for verb, names in (("lacks", own.keys() - given.keys()),
                            ("has the unknown", given.keys() - own.keys())):  # fmt: skip
            if names:
                listed = ", ".join(sorted(map(str, names)))
                raise ValueError(
                    f"{where} {verb} {listed}: it was saved under another configuration"
                )
        for name in own:
            require_same_layout(f"{where}.{name}", own[name], given[name])
    elif isinstance(own, Tensor):
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        if shape != list(own.shape):
            raise ValueError(
                f"{where} is {shape}, and {list(own.shape)} under this configuration: load it "
                "under the configuration that it was saved with"
            )
    elif isinstance(own, str) and own != given:
        raise ValueError(f"{where} is {given!r}, and {own!r} under this configuration")
