"""What the report says first: verdict, findings, key numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from online_swav import wording
from online_swav.report.facts import Facts
from online_swav.summary import (
    FindingText,
    Headline,
    Tile,
    finding_text,
    headline,
    key_numbers,
    probe_tile,
    verdict_line,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The first section."""

    headline: Headline
    state: str
    """What the run is doing, in a sentence."""
    findings: tuple[FindingText, ...]
    tiles: tuple[Tile, ...]
    acted: str
    """What the run did by itself; empty if nothing."""


def opening(facts: Facts, *, explanations: Mapping[str, str]) -> Opening:
    """What to say first. Nothing links to a file: a report is mailed around.

    Args:
        facts: The run.
        explanations: What each finding means, by its name.
    """
    status = facts.status
    if status is None:
        return Opening(headline=_without_status(facts), state=_state(facts), findings=(),
                       tiles=_tiles_of_checkpoint(facts), acted="")  # fmt: skip
    first = headline(status, facts.now) if facts.live or facts.ended else _gone(facts)
    # A run that no longer writes had its findings until its last word.
    now = facts.now if facts.live else facts.status_at
    findings = tuple(
        finding_text(f, now, explanation=explanations.get(f.name, ""))
        for f in status.health.findings
    )
    actions = status.learner.actions if status.learner is not None else {}
    acted = ", ".join(f"{n:,} {kind}" for kind, n in actions.items() if n)
    return Opening(headline=first, state=_state(facts), findings=findings,
                   tiles=tuple(key_numbers(status, facts.now)), acted=acted)  # fmt: skip


def _state(facts: Facts) -> str:
    status = facts.status
    if status is None:
        return "The run has left no status.json: it ran in process, or has not reported yet."
    when = wording.duration(facts.now - facts.status_at)
    if status.state == "stopped":
        return f"The run stopped {when} ago: {status.message.rstrip('.') or 'nobody said why'}."
    if status.state == "failed":
        return f"The run ended {when} ago with an error."
    if facts.live:
        return "The run is live: the numbers are of this moment, and go on changing."
    verdict = wording.health_words(status.health)
    return f"Its last verdict: {verdict}; the numbers are those of its last word."


def _gone(facts: Facts) -> Headline:
    return Headline("bad", "Gone", wording.gone(facts.now - facts.status_at))


def _without_status(facts: Facts) -> Headline:
    if facts.newest is None:
        return Headline("quiet", "Young", "No report and no checkpoint yet.")
    return verdict_line(facts.newest.manifest.verdict, (), ended=True)


def _tiles_of_checkpoint(facts: Facts) -> tuple[Tile, ...]:
    newest = facts.newest
    if newest is None:
        return (Tile("Checkpoint", "none yet"),)
    manifest = newest.manifest
    tiles = [
        Tile("Step", f"{manifest.step:,}", f"{manifest.samples_seen:,} images"),
        Tile("Checkpoint", f"{wording.since(manifest.created_at, facts.now)} ago",
             wording.size(newest.size_bytes)),
    ]  # fmt: skip
    if facts.probes:
        tiles.append(probe_tile(facts.probes))
    return tuple(tiles)
