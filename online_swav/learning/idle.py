"""How long a GPU had nothing to do between steps, without waiting for it."""

from __future__ import annotations

from collections import deque

import torch


class IdleTime:
    """Adds up the time from the end of a step to the beginning of the next one, on the GPU's clock.

    The host runs ahead of a GPU: while it waits for a batch the GPU may well be busy.

    Args:
        device: Of the learner.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended: torch.cuda.Event | None = None
        self._gaps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0

    def step_begins(self) -> None:
        """Call before anything of the step is launched."""
        if self._ended is not None and self._ended.query():  # else it is still at the last one
            self._gaps.append((self._ended, self._record()))

    def step_ended(self) -> None:
        """Call when all of the step is launched."""
        if self._device.type == "cuda":
            self._ended = self._record()

    def seconds(self) -> float | None:
        """All gaps that are over by now; None if the device is no GPU."""
        if self._device.type != "cuda":
            return None
        while self._gaps and self._gaps[0][1].query():
            ended, begun = self._gaps.popleft()
            self._seconds += ended.elapsed_time(begun) / 1e3
        return self._seconds

    def _record(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
