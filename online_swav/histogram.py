"""A histogram with fixed buckets, as Prometheus counts them. Plain values."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Histogram:
    """Observations by bucket, and their sum.

    Args:
        bounds: Upper bounds of the buckets, ascending; one more bucket takes what is larger.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    """Observations per bucket, not cumulative; `len(bounds) + 1` of them."""
    sum: float = 0.0
    """Sum of all observations."""

    def __post_init__(self) -> None:
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"bounds must ascend, got {self.bounds}")
        self.counts = self.counts or [0] * (len(self.bounds) + 1)
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(f"{len(self.bounds)} bounds need {len(self.bounds) + 1} counts")

    def observe(self, value: float) -> None:
        """Count a value; a bound belongs to its bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Self:
        """The same counts in memory of their own."""
        return type(self)(self.bounds, list(self.counts), self.sum)

    @property
    def total(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as Prometheus writes them: upper bound, observations up to it."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        running, result = 0, []
        for name, count in zip(names, self.counts, strict=True):
            running += count
            result.append((name, float(running)))
        return result
