"""torch.compile that may fail: then the plain function goes on, with a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

logger = logging.getLogger(__name__)


def compiled(function: Callable[..., Any], *, dynamic: bool | None = None) -> Callable[..., Any]:
    """`function`, compiled at its first call. Needs a C compiler; without one it stays as it is.

    Args:
        function: A function of tensors, or a module.
        dynamic: Whether sizes differ from call to call; None finds out.
    """
    fast = torch.compile(function, dynamic=dynamic)
    broken = False

    def call(*args: Any) -> Any:
        nonlocal broken
        if not broken:
            try:
                return fast(*args)
            except TorchDynamoException as error:
                broken = True
                logger.warning(
                    "compilation_failed function=%s error=%r: it runs uncompiled; --compile off "
                    "silences this",
                    getattr(function, "__name__", type(function).__name__),
                    str(error).strip().split("\n", 1)[0],
                )
        return function(*args)

    return call
