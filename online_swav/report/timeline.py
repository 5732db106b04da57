"""The story as a picture: a lane each for verdict, learner, findings, actions, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup
from matplotlib.axes import Axes

from online_swav.report import plots
from online_swav.report.events import Event
from online_swav.report.lapses import LAPSED
from online_swav.report.segments import Segment
from online_swav.wording import plain_name

WIDTHS = {"wide": 1060.0, "narrow": 350.0}
"""Pixels of the two pictures; the page shows the one that fits."""
MOST_FINDINGS = 8
_LANE_PX = 36.0
_TROUBLE = ("failed", "restarted", "checkpoint_failed", "quarantined", "source_paused")
_VERDICT_COLORS = {"ok": plots.OK, "degraded": plots.WARN, "collapsed": plots.BAD}


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of the picture."""

    name: str
    bars: list[tuple[float, float, str]] = field(default_factory=list)
    """From, until, colour."""
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    """Moment, matplotlib marker, colour."""


def timeline(
    events: Sequence[Event], verdicts: Sequence[Segment], reporting: Sequence[Segment], *,
    first: float, last: float,
) -> dict[str, Markup]:  # fmt: skip
    """The picture, wide and narrow."""
    lanes = [lane for lane in _lanes(events, verdicts, reporting, last) if lane.bars or lane.marks]
    return {
        name: _draw(lanes, width, first, last, name=f"timeline-{name}")
        for name, width in WIDTHS.items()
    }


def _lanes(
    events: Sequence[Event], verdicts: Sequence[Segment], reporting: Sequence[Segment], last: float
) -> list[Lane]:
    advice = {e.text("name") for e in events if e.fields.get("advice") is True}
    findings = [
        Lane(plain_name(name), bars=[
            (start, end, plots.QUIET if name in advice else plots.WARN) for start, end in spans
        ])
        for name, spans in finding_spans(events, last).items()
    ]  # fmt: skip
    shown = findings[:MOST_FINDINGS]
    if len(findings) > MOST_FINDINGS:
        rest = [bar for lane in findings[MOST_FINDINGS:] for bar in lane.bars]
        shown.append(Lane(f"{len(findings) - MOST_FINDINGS} other findings", bars=rest))
    return [
        Lane("verdict", bars=[(s.start, s.end, _VERDICT_COLORS.get(s.value, plots.QUIET))
                              for s in verdicts]),
        Lane("learner reports", bars=[(s.start, s.end, plots.ACCENT) for s in reporting]),
        *shown,
        Lane("acted by itself", marks=_marks(events, lambda e: e.name == "action", "D",
                                             plots.WARN)),
        Lane("trouble", marks=_marks(events, lambda e: e.name in _TROUBLE, "X", plots.BAD)),
        Lane("checkpoints", marks=_marks(events, lambda e: e.name == "checkpoint", "|",
                                         plots.ACCENT)),
        Lane("encoders published", marks=_marks(events, lambda e: e.name == "published", "|",
                                                plots.OK)),
        Lane("probes", marks=_marks(events, lambda e: e.name == "probe", "o", plots.SECOND)),
    ]  # fmt: skip


def finding_spans(events: Sequence[Event], last: float) -> dict[str, list[tuple[float, float]]]:
    """From when until when each finding was open; one that nobody ended lasts until `last`."""
    spans: dict[str, list[tuple[float, float]]] = {}
    open_since: dict[tuple[str, str], float] = {}
    for event in events:
        key = event.text("name"), event.text("subject")
        if event.name == "finding_raised":
            open_since.setdefault(key, event.at)
            spans.setdefault(key[0], [])
        elif event.name in ("finding_cleared", LAPSED):
            began = open_since.pop(key, None)
            if began is not None:
                spans[key[0]].append((began, event.at))
    for (name, _), began in open_since.items():
        spans[name].append((began, max(last, began)))
    return spans


def _marks(
    events: Sequence[Event], wanted: Callable[[Event], bool], marker: str, color: str
) -> list[tuple[float, str, str]]:
    return [(event.at, marker, color) for event in events if wanted(event)]


def _draw(lanes: Sequence[Lane], width: float, first: float, last: float, *, name: str) -> Markup:
    picture = plots.figure(width, len(lanes) * _LANE_PX + 30)
    axes = plots.axes(picture, grid=False)
    axes.set_ylim(len(lanes) - 0.5, -0.75)
    axes.set_yticks([])
    plots.time_axis(axes, first, last)
    axes.xaxis.grid(True)
    axes.tick_params(labelsize=11.5)
    pixels = width / max(last - first, 1.0)
    for row, lane in enumerate(lanes):
        axes.text(0, row - 0.26, lane.name, color=plots.SOFT, va="bottom", fontsize=11.5,
                  transform=axes.get_yaxis_transform())  # fmt: skip
        _bars(axes, lane, row, least_s=2 / pixels)
        for marker in {mark for _, mark, _ in lane.marks}:
            chosen = [(at, color) for at, mark, color in lane.marks if mark == marker]
            kept = _apart([at for at, _ in chosen], 1 / pixels)
            axes.plot(plots.days(kept), [row] * len(kept), marker, color=chosen[0][1],
                      markersize=10 if marker == "|" else 8, markeredgewidth=1.6 if marker == "|"
                      else 0)  # fmt: skip
    return plots.svg(picture, name=name, title="The run over time: " + ", ".join(
        lane.name for lane in lanes))  # fmt: skip


def _bars(axes: Axes, lane: Lane, row: int, *, least_s: float) -> None:
    """One draw per colour; what is too short to be seen is made visible."""
    for color in {color for _, _, color in lane.bars}:
        spans = [(start, max(end - start, least_s)) for start, end, own in lane.bars
                 if own == color]  # fmt: skip
        begins = plots.days([start for start, _ in spans])
        lengths = [length / 86_400 for _, length in spans]
        axes.broken_barh(list(zip(begins, lengths, strict=True)), (row - 0.17, 0.36), color=color,
                         linewidth=0)  # fmt: skip


def _apart(moments: Sequence[float], least_s: float) -> list[float]:
    """Moments without those that would be drawn over the one before."""
    kept: list[float] = []
    for at in moments:
        if not kept or at - kept[-1] >= least_s:
            kept.append(at)
    return kept
