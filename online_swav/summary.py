"""What every page says first of a run: verdict, findings in words, key numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from online_swav import wording
from online_swav.learning.findings import Finding
from online_swav.status import ProbeStatus, RunStatus

Tone = Literal["ok", "warn", "bad", "quiet"]
"""How a thing is to be taken; displays give each a colour of its own."""


@dataclass(frozen=True, slots=True)
class Headline:
    """What to say first of a run."""

    tone: Tone
    title: str
    """One or two words."""
    sentence: str
    """What that means."""


def verdict_line(verdict: str, findings: Sequence[Finding], *, ended: bool) -> Headline:
    """A verdict in words; `ended`: the last one of a run that has stopped."""
    found = wording.counted(findings)
    if verdict == "collapsed":
        return Headline("bad", "Collapsed", "The encoder no longer tells images apart. Such "
                        "weights are not published.")  # fmt: skip
    if verdict == "degraded":
        goes_on = "" if ended else "; training goes on"
        return Headline("warn", "Degraded", f"{found or 'There were findings'}{goes_on}.")
    if verdict == "ok" and found:
        return Headline("ok", "Healthy, with advice", f"{found}; the encoder itself is well.")
    if verdict == "ok":
        return Headline("ok", "Healthy", "Every number is in its healthy range.")
    if ended:
        return Headline("quiet", "Not judged", "The run ended before its first verdict.")
    also = f" There is {found}." if found else ""
    return Headline("quiet", "Warming up", "Not judged yet: the first window of images is not "
                    f"full, or the grace at the start not over.{also}")  # fmt: skip


def headline(status: RunStatus, now: float) -> Headline:
    """What to say first: what needs a person comes before what the learner thinks of itself."""
    health, ended = status.health, status.state == "stopped"
    if status.state == "failed":
        return Headline("bad", "Failed", status.message or "See run.log for the cause.")
    if health.verdict == "collapsed":
        return verdict_line("collapsed", health.findings, ended=ended)
    if wording.is_silent(status) and status.learner is not None:
        silent = wording.since(status.learner.reported_at, now)
        return Headline("bad", "Silent", f"The learner has not reported for {silent}; the numbers "
                        "are old.")  # fmt: skip
    paused = [name for name, counts in status.sources.items() if counts.paused]
    if paused:
        return Headline("bad", "Paused", f"Source {', '.join(paused)} delivers too much that "
                        f"cannot be used. {wording.PAUSE_REMEDY}")  # fmt: skip
    if status.learner is None and not status.findings:
        return Headline("quiet", "Starting", "The learner has not reported yet.")
    return verdict_line(health.verdict, health.findings, ended=ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingText:
    """A finding as pages show it."""

    title: str
    value: str
    healthy: str
    lasted: str
    remedy: str
    link: str
    """Where it is explained, as text."""
    href: str | None
    """Where its name leads; None where nothing could be followed."""
    explanation: str
    """What the finding means; empty where it is not told."""
    tone: Tone


@dataclass(frozen=True, slots=True)
class Tile:
    """A key number."""

    name: str
    value: str
    note: str = ""


def finding_text(
    finding: Finding, now: float, *, href: str | None = None, explanation: str = ""
) -> FindingText:
    """A finding in words."""
    tone: Tone = "bad" if finding.collapse else "quiet" if finding.advice else "warn"
    return FindingText(
        title=wording.finding_title(finding), value=wording.measured(finding),
        healthy=finding.healthy, lasted=wording.finding_lasted(finding, now),
        remedy=finding.remedy, link=finding.link, href=href, explanation=explanation,
        tone=tone,
    )  # fmt: skip


def probe_tile(probes: Sequence[ProbeStatus]) -> Tile:
    """The newest result, and the first one to compare it with."""
    first, last = probes[0], probes[-1]
    before = f"{first.knn_accuracy:.1%} at step {first.step:,}"
    return Tile("k-NN", f"{last.knn_accuracy:.1%}",
                before if len(probes) > 1 else f"at step {first.step:,}")  # fmt: skip


def key_numbers(status: RunStatus, now: float) -> list[Tile]:
    """What people look for first; what is not known is left out."""
    tiles = [Tile("State", status.state)]
    learner = status.learner
    if learner is not None:
        tiles.append(Tile("Step", f"{learner.step:,}", f"{learner.samples_seen:,} images"))
        tiles.append(
            Tile("Images/s", f"{learner.images_per_s:,.0f}",
                 f"waiting {learner.wait_ratio:.0%} of the time")
        )  # fmt: skip
        if learner.loss_ratio is not None:
            tiles.append(Tile("Loss / log K", f"{learner.loss_ratio:.3f}", "1 is no learning"))
        rank, usage = learner.signs.effective_rank, learner.signs.usage_perplexity_ratio
        if usage is not None:
            note = f"rank {rank:.0f}" if rank is not None else ""
            tiles.append(Tile("Prototypes in use", f"{usage:.0%}", note))
    if status.probes:
        tiles.append(probe_tile(status.probes))
    if status.sources:
        oldest = [c.oldest_unread_at for c in status.sources.values() if c.oldest_unread_at]
        unread = sum(c.shards.get("unread", 0) for c in status.sources.values())
        tiles.append(Tile("Lag", wording.since(min(oldest, default=None), now),
                          f"{wording.amount(unread, 'shard')} unread"))  # fmt: skip
    checkpoint = status.checkpoint
    if checkpoint is None:
        tiles.append(Tile("Checkpoint", "none yet"))
    else:
        tiles.append(Tile("Checkpoint", f"{wording.since(checkpoint.published_at, now)} ago",
                          f"step {checkpoint.step:,}"))  # fmt: skip
    if status.disk_free_bytes is not None:
        tiles.append(Tile("Disk free", wording.size(status.disk_free_bytes)))
    return tiles
