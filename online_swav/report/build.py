"""The report as a page: its sections, from a run folder to one file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from online_swav.errors import ConfigError
from online_swav.guide import explanations
from online_swav.pages import render, style_sheet
from online_swav.report.books import read_books
from online_swav.report.curves import Frame, draw_curves
from online_swav.report.events import Event, events_of
from online_swav.report.facts import Facts, gather
from online_swav.report.lapses import with_lapses
from online_swav.report.opening import opening
from online_swav.report.pictures import pictures_of
from online_swav.report.quarantine import quarantine_view
from online_swav.report.recipe import recipe, whole_config
from online_swav.report.segments import reporting_segments, verdict_segments
from online_swav.report.story import Entry, entries
from online_swav.report.timeline import timeline

OPEN_ENTRIES, MOST_ENTRIES = 12, 400
"""Lines of the story that are open, routine not counted, and that there are at all; the newest."""


def write_report(
    run: Path, out: Path, *, shards: Sequence[str], images: int, with_images: bool,
    say: Callable[[str], None],
) -> int:  # fmt: skip
    """Write the report of a run, whole or not at all; its size in bytes.

    Args:
        run: The run folder.
        out: Where it goes.
        shards: Where the sample of images is taken from; empty: from the run's own shards.
        images: Images in the sample.
        with_images: Whether pictures of the data are shown at all.
        say: Told what is done, as it may take a minute.

    Raises:
        ConfigError: If it cannot be written, or `shards` match nothing.
    """
    staging = out.with_name(f".{out.name}.{os.getpid()}")
    with _explained(out):
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        staging.touch()  # a place that cannot be written is said before the work
    try:
        page = build_report(run, shards=shards, images=images, with_images=with_images, say=say)
        with _explained(out):
            staging.write_text(page, encoding="utf-8")
            size_bytes = staging.stat().st_size
            staging.replace(out)
    finally:
        staging.unlink(missing_ok=True)
    return size_bytes


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out {out}: {error.strerror or error}; name a file in a folder that can be written"
        ) from error


def build_report(
    run: Path, *, shards: Sequence[str], images: int, with_images: bool,
    say: Callable[[str], None], now: float | None = None,
) -> str:  # fmt: skip
    """The page. See `write_report`.

    Raises:
        ConfigError: If the run's config cannot be read, or `shards` match nothing.
    """
    facts = gather(run, now=time.time() if now is None else now)
    events = with_lapses(events_of(facts))
    told = entries(events)[::-1]
    return render(
        "report.html",
        style=style_sheet("look.css", "report.css"),
        run=facts.run.name,
        now=facts.now,
        opening=opening(facts, explanations=explanations()),
        story=told[:MOST_ENTRIES],
        story_open=_open(told),
        story_more=max(len(told) - MOST_ENTRIES, 0),
        from_events=bool(facts.events),
        from_history=bool(facts.history),
        **_over_time(facts, events),
        books=read_books(run),
        pictures=pictures_of(facts, shards, images=images, with_images=with_images, say=say),
        quarantine=quarantine_view(run, facts.config, with_images=with_images),
        recipe=recipe(facts),
        config=whole_config(facts),
    )


def _open(told: Sequence[Entry]) -> int:
    """How many lines to show, so that `OPEN_ENTRIES` of them tell something."""
    places = [place for place, entry in enumerate(told, start=1) if not entry.routine]
    return places[OPEN_ENTRIES - 1] if len(places) >= OPEN_ENTRIES else 2 * OPEN_ENTRIES


def _over_time(facts: Facts, events: Sequence[Event]) -> dict[str, Any]:
    """The time line and the curves, over the same stretch of time."""
    moments = [float(row["at"]) for row in facts.history]
    moments += [e.at for e in events] + [p.measured_at for p in facts.probes]
    if not moments:
        return {"timeline": None, "curves": []}
    first, last = min(moments), facts.now if facts.live else max(moments)
    verdicts, reporting = verdict_segments(facts.history), reporting_segments(facts.history)
    actions = [event.at for event in events if event.name == "action"]
    frame = Frame(first=first, last=last, verdicts=verdicts, actions=actions)
    return {
        "timeline": timeline(events, verdicts, reporting, first=first, last=last),
        "curves": draw_curves(facts.history, facts.probes, frame),
    }
