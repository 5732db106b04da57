"""What the steps of a rank took and what they were made of, counted as they happen."""

from __future__ import annotations

from online_swav.histogram import Histogram
from online_swav.status import HISTOGRAMS
from streams.batch import Batch

DUPLICATES_WEIGHT = 0.005
"""Of the newest batch: a mean over about 200."""


class StepTimes:
    """Histograms, the age of the data, and the share of near-duplicates; of this rank."""

    def __init__(self) -> None:
        self._histograms = {name: Histogram(bounds) for name, bounds in HISTOGRAMS.items()}
        self._waited_s = 0.0
        self._duplicates = 0.0
        self._known = 0.0
        self.data_age_s: float | None = None
        """Mean age of the last step's first-time images; None if it had none."""

    def step(self, batch: Batch, *, step_s: float, waited_s: float, now: float) -> None:
        """Count a step.

        Args:
            batch: Its images.
            step_s: What it took.
            waited_s: All waiting of this rank so far.
            now: Unix seconds.
        """
        self._histograms["step_duration_seconds"].observe(step_s)
        self._histograms["batch_wait_seconds"].observe(waited_s - self._waited_s)
        self._waited_s = waited_s
        for seconds in batch.decode_s:
            self._histograms["decode_duration_seconds"].observe(seconds)
        ages = [
            max(now - arrived, 0.0)
            for arrived, origin in zip(batch.arrived_at, batch.origins, strict=True)
            if origin.pass_number == 0
        ]
        for age in ages:
            self._histograms["ingest_lag_seconds"].observe(age)
        self.data_age_s = sum(ages) / len(ages) if ages else None
        if ages and batch.near_duplicates:  # a replayed image is none of its own first pass
            share = sum(batch.near_duplicates) / len(ages)
            self._duplicates += DUPLICATES_WEIGHT * (share - self._duplicates)
            self._known += DUPLICATES_WEIGHT * (1 - self._known)

    @property
    def near_duplicate_ratio(self) -> float | None:
        """Share of near-duplicates over about the last 200 batches; None before the first."""
        return self._duplicates / self._known if self._known else None

    def histograms(self) -> dict[str, Histogram]:
        """Copies of the counts so far."""
        return {name: histogram.copy() for name, histogram in self._histograms.items()}
