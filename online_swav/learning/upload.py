"""Crops from the host's memory to the device, beside the step that is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

BUFFERS = 2


class Upload:
    """Copies crops to a device.

    To a GPU they go through page-locked buffers and a stream of their own, so that the copy runs
    beside the step before: a copy from ordinary memory would make the host wait for that step.
    `BUFFERS` batches may be under way.

    Args:
        device: Where the crops go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._staged: list[list[Tensor]] = [[] for _ in range(BUFFERS)]
        self._copied: list[torch.cuda.Event | None] = [None] * BUFFERS
        self._turn = 0

    def __call__(
        self, crops: Sequence[UInt8[Tensor, "_ _ 3 _ _"]]
    ) -> list[UInt8[Tensor, "_ _ 3 _ _"]]:
        """The crops on the device, channels last in memory; valid on its current stream."""
        if self._stream is None or crops[0].device == self._device:
            return [family.to(self._device) for family in crops]
        self._turn = (self._turn + 1) % BUFFERS
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        staged = self._stage(crops)
        with torch.cuda.stream(self._stream):
            uploaded = [family.to(self._device, non_blocking=True) for family in staged]
            self._copied[self._turn] = self._stream.record_event()
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for family in uploaded:
            family.record_stream(current)
        return [family.permute(0, 1, 4, 2, 3) for family in uploaded]

    def _stage(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Page-locked copies `[v, B, s, s, 3]`; a smaller batch uses the front of the buffers."""
        buffers = self._staged[self._turn]
        interleaved = [family.permute(0, 1, 3, 4, 2) for family in crops]
        needed = [family.numel() for family in interleaved]
        large_enough = [b.numel() >= n for b, n in zip(buffers, needed, strict=False)]
        if large_enough != [True] * len(needed):
            buffers = [torch.empty(n, dtype=torch.uint8, pin_memory=True) for n in needed]
            self._staged[self._turn] = buffers
        staged = []
        for family, buffer in zip(interleaved, buffers, strict=True):
            front = buffer[: family.numel()].view(family.shape)
            front.copy_(family)
            staged.append(front)
        return staged
