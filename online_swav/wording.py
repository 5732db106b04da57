"""Numbers, times and findings in words; the same words on every display. Plain values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from online_swav.learning.findings import Finding, Health
from online_swav.status import RunStatus

PAUSE_REMEDY = (
    "Look with `online-swav quarantine list`; it is tried again every --budget.retry-s seconds."
)
OLD_S = 30.0
"""A snapshot that is written every second, and is older than this, was left by a run that died."""
_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|d|B|kB|MB|GB|TB)\b)")


def unbroken(text: str) -> str:
    """The same with a space at which no line is broken between a number and its unit."""
    return _UNIT.sub("\u00a0", text)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h`, `5 d`."""
    seconds = max(seconds, 0.0)
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def since(then: float | None, now: float) -> str:
    """How long ago; an unknown moment was just now."""
    return duration(now - then) if then is not None else "0 s"


def size(num_bytes: float) -> str:
    """`9 B`, `1.4 MB`, `120 GB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while num_bytes >= 1000 and len(units) > 1:
        num_bytes /= 1000
        units.pop(0)
    whole = units[0] == "B" or num_bytes >= 10
    return f"{num_bytes:.{0 if whole else 1}f} {units[0]}"


def number(value: float) -> str:
    """Three digits of a real number, all of a whole one."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


ADJUSTMENTS = {
    "lr_factor": "rate x", "epsilon_factor": "epsilon x",
    "frozen_until_step": "prototypes frozen until step",
}  # fmt: skip
"""Fields of `learning.adjustments.Adjustments`, in words."""


def measured(finding: Finding) -> str:
    """The value of a finding as people read it."""
    return finding.shown or number(finding.value)


def adjustments(changed: Mapping[str, object]) -> list[str]:
    """What a run has changed of its own recipe; what is as configured is left out."""
    return [f"{words} {changed[name]}" for name, words in ADJUSTMENTS.items()
            if changed.get(name, 0) not in (0, 1)]  # fmt: skip


def amount(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters; its end shows what was cut."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def plain_name(name: str) -> str:
    """A name of the code as people read it: `stuck_at_log_k` is `stuck at log K`."""
    return name.replace("_", " ").replace("log k", "log K")


def finding_title(finding: Finding) -> str:
    """Its name, and what it is about."""
    about = f" of {finding.subject}" if finding.subject else ""
    return plain_name(finding.name) + about


def finding_lasted(finding: Finding, now: float) -> str:
    """`12 min, since step 300`; empty when it is not known."""
    if not finding.since:
        return ""
    return f"{since(finding.since, now)}, since step {finding.since_step:,}"


def finding_line(finding: Finding, now: float) -> str:
    """All of a finding in one line of text."""
    lasted = finding_lasted(finding, now)
    return (
        f"{'advice' if finding.advice else '!'} {finding_title(finding)}: {measured(finding)} "
        f"(healthy: {finding.healthy})"
        + (f" for {lasted}" if lasted else "")
        + f". {finding.remedy} ({finding.link})"
    )


def counted(findings: Sequence[Finding]) -> str:
    """`2 findings and 1 piece of advice`; empty without any."""
    pieces = sum(finding.advice for finding in findings)
    advice = f"{amount(pieces, 'piece')} of advice" if pieces else ""
    wrong = amount(len(findings) - pieces, "finding") if len(findings) > pieces else ""
    return " and ".join(part for part in (wrong, advice) if part)


def verdict_words(verdict: str) -> str:
    """A verdict in lines of text."""
    return "not judged yet" if verdict == "unknown" else verdict


def health_words(health: Health) -> str:
    """Verdict and whether there is advice, in lines of text."""
    advised = health.verdict == "ok" and health.findings
    return "ok, with advice" if advised else verdict_words(health.verdict)


def gone(age_s: float) -> str:
    """What to say of a run whose snapshot is too old for one that is written now."""
    return (
        f"The run has not written its status for {duration(age_s)}: it ended without a word. The "
        "same command resumes it from the newest checkpoint."
    )


def has_gone(status: RunStatus, age_s: float) -> bool:
    """Whether a snapshot of that age was left by a run that died."""
    return age_s > OLD_S and status.state not in ("stopped", "failed")


def is_silent(status: RunStatus) -> bool:
    """Whether a learner that should report does not: what is known of it is old."""
    return (
        status.learner is not None
        and not status.learner_up
        and status.state not in ("stopped", "failed")
    )
