"""What health says: a verdict and findings in words. Plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["unknown", "ok", "degraded", "collapsed"]
VERDICTS: tuple[Verdict, ...] = ("unknown", "ok", "degraded", "collapsed")

FINDING_NAMES = (
    "stuck_at_log_k",
    "narrow_prototype_usage",
    "embedding_collapse",
    "low_effective_rank",
    "nonfinite_steps",
)
"""Closed set: these words are labels of metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sign that the representation is unwell."""

    name: str
    """One of `FINDING_NAMES`."""
    value: float
    """What was measured."""
    healthy: str
    """The healthy range, in words and numbers."""
    remedy: str
    """What to do, naming the option to change."""
    collapse: bool = False
    """Whether this finding alone means a collapsed encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Verdict over all findings."""

    verdict: Verdict = "unknown"
    """`unknown` until a first window is full."""
    findings: tuple[Finding, ...] = ()
    """What is wrong, worst first; empty when the verdict is ok."""
