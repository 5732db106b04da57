"""Steps whose loss or gradient is not finite: skipped on the device, counted on the host."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

NONFINITE_MEMORY_STEPS = 1000
RUN_AHEAD_STEPS = 2
"""Steps that the host may be ahead of a GPU: it waits for the step before them."""
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""


class NonFiniteLossError(ArithmeticError):
    """The loss stayed NaN or infinite for too many steps in a row."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    step: int
    skipped: Bool[Tensor, ""]
    """In the host's memory; valid after `ready`."""
    ready: torch.cuda.Event | None


class NonFiniteSteps:
    """Counts skipped steps without making the host wait for the device at every step.

    The verdict of a step stays on the device, where it decides about the update. The host reads it
    `RUN_AHEAD_STEPS` later on a GPU, at once on a CPU, and whenever `settle` is called.

    Args:
        most_in_a_row: Skipped steps in a row that raise.
    """

    def __init__(self, most_in_a_row: int) -> None:
        self._most_in_a_row = most_in_a_row
        self._unread: deque[_Verdict] = deque()
        self.total = 0
        """Skipped steps that are known of."""
        self.in_a_row = 0
        """Skipped steps up to the newest known one."""
        self.steps: deque[int] = deque(maxlen=NONFINITE_MEMORY_STEPS)
        """Steps before which skipped ones were made, the newest of them."""

    def record(self, step: int, skipped: Bool[Tensor, ""]) -> None:
        """Take note of the verdict over the step after `step`.

        Raises:
            NonFiniteLossError: If by now too many in a row are known.
        """
        if skipped.device.type == "cuda":
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            host.copy_(skipped, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(skipped.device))
            self._unread.append(_Verdict(step, host, ready))
        else:
            self._unread.append(_Verdict(step, skipped, None))
        self._read(RUN_AHEAD_STEPS if skipped.device.type == "cuda" else 0)

    def settle(self) -> None:
        """Wait for all verdicts.

        Raises:
            NonFiniteLossError: If too many in a row are known.
        """
        self._read(0)

    def recent(self, step: int) -> int:
        """Skipped steps among the last `NONFINITE_MEMORY_STEPS`."""
        return sum(skipped >= step - NONFINITE_MEMORY_STEPS for skipped in self.steps)

    def _read(self, leave: int) -> None:
        while len(self._unread) > leave:
            verdict = self._unread.popleft()
            if verdict.ready is not None:
                verdict.ready.synchronize()
            if not verdict.skipped:
                self.in_a_row = 0
                continue
            self.total += 1
            self.in_a_row += 1
            self.steps.append(verdict.step)
            if self.in_a_row >= self._most_in_a_row:
                raise NonFiniteLossError(
                    f"loss or gradient not finite in steps {verdict.step - self.in_a_row + 2} to "
                    f"{verdict.step + 1}. The newest checkpoint is from before: go on (--change) "
                    "with a lower --learner.optim.lr, a longer --learner.schedule.warmup-steps, or "
                    "--learner.autocast off."
                )


class Snapshot:
    """Copies of tensors, to be put back where a device says so, without a wait.

    Args:
        tensors: All that may have to be put back; the same ones are written to.
    """

    @torch.no_grad()
    def __init__(self, tensors: list[Tensor]) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            bits = tensor.view(_BITS[tensor.element_size()])
            by_type.setdefault(bits.dtype, []).append(bits)
        self._pairs = [(now, torch._foreach_mul(now, 1)) for now in by_type.values()]

    @torch.no_grad()
    def restore(self, *, where: Bool[Tensor, ""]) -> None:
        """Put the copies back if `where` holds.

        On the bits, by products with 0 and 1, in a launch per hundred tensors: NaN is no number
        that a product could remove, but its bits are.
        """
        for now, before in self._pairs:
            back = where.to(now[0].dtype)
            torch._foreach_mul_(now, 1 - back)
            torch._foreach_add_(now, torch._foreach_mul(before, back))
