"""Curves of a run over time, one small picture each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from online_swav.report import plots
from online_swav.report.segments import Segment, stops
from online_swav.status import ProbeStatus
from online_swav.wording import duration, number

WIDTH, HEIGHT = 350.0, 190.0
BINS = 220
FEW = 12
"""Points from which on a line needs no dots to be seen."""
Floats = npt.NDArray[np.float64]
_VERDICT_COLORS = {"ok": plots.OK, "degraded": plots.WARN, "collapsed": plots.BAD}


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a picture shows."""

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    """Columns of the history, and what they are called."""
    caption: str
    """What it means and what is healthy."""
    form: Callable[[float], str] = number
    """How values are written."""
    bounds: tuple[float | None, float | None] = (0.0, None)
    """Ends of the axis; None fits the values."""
    line: float | None = None
    """A value of note."""
    log: bool = False


CURVES = (
    Curve(name="loss", title="Loss / log K", columns=(("loss_ratio", "loss / log K"),),
          caption="1 is no learning at all; 0.4 to 0.9 is usual after the start.",
          bounds=(None, None), line=1.0),
    Curve(name="usage", title="Prototypes", form=_percent,
          columns=(("usage_perplexity_ratio", "in use"), ("dead_prototype_ratio", "dead")),
          caption="In use: perplexity of the winners / K. Dead: won no image of the window.",
          bounds=(0.0, 1.0)),
    Curve(name="rank", title="Ranks",
          columns=(("effective_rank", "embeddings"), ("feature_rank", "backbone")),
          caption="Dimensions that are really used (RankMe). Falling towards 1 is collapse."),
    Curve(name="codes", title="Codes", form=_percent,
          columns=(("view_agreement_ratio", "views agree"), ("code_entropy_ratio", "entropy")),
          caption="Share of images whose two codes have the same winner; entropy of the codes "
          "/ log K.", bounds=(0.0, 1.0)),
    Curve(name="spread", title="Spread of the embeddings",
          columns=(("embedding_std_ratio", "spread"),),
          caption="Standard deviation of unit embeddings x sqrt(D): near 1 they fill their "
          "space, near 0 all images look alike."),
    Curve(name="gradient", title="Gradient norm", columns=(("grad_norm", "gradient norm"),),
          caption="Before any scaling. Jumps mean that the rate is too high.", log=True),
    Curve(name="rate", title="Learning rate", columns=(("lr", "rate"),),
          caption="As used: schedule times what the run has changed by itself.",
          form=lambda value: f"{value:.2g}"),
    Curve(name="speed", title="Images per second", columns=(("images_per_s", "images/s"),),
          caption="Over all learner ranks."),
    Curve(name="waiting", title="Waiting for images", columns=(("wait_ratio", "waiting"),),
          form=_percent, caption="Share of the learner's time. High for long: reading is the "
          "bottleneck, or the stream is dry.", bounds=(0.0, 1.0)),
    Curve(name="lag", title="Lag", form=duration,
          columns=(("lag_s", "oldest unread shard"), ("data_age_s", "images trained")),
          caption="How long the oldest unread shard has waited, and how old images are when they "
          "are trained."),
    Curve(name="duplicates", title="Near-duplicates", form=_percent,
          columns=(("near_duplicate_ratio", "near-duplicates"),),
          caption="Share of the stream's images that look like one shortly before."),
)  # fmt: skip
PROBE = Curve(name="probe", title="k-NN accuracy", columns=(), form=_percent,
              caption="Labelled probe of the frozen encoder; the dashed line is the first one.",
              bounds=(None, None))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture and its words."""

    title: str
    latest: str
    """The newest value."""
    keys: tuple[tuple[str, str], ...]
    """Colour (a style sheet variable) and name of each line; empty for one line."""
    caption: str
    picture: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all curves have in common."""

    first: float
    last: float
    verdicts: Sequence[Segment]
    actions: Sequence[float]
    """Moments at which the run helped itself."""


def draw_curves(
    history: Sequence[dict[str, Any]], probes: Sequence[ProbeStatus], frame: Frame
) -> list[Drawn]:
    """Every curve that has a value; k-NN accuracy second, where people look for it."""
    drawn = [_draw_history(curve, history, frame) for curve in CURVES]
    drawn.insert(1, _draw_probes(probes, frame))
    return [picture for picture in drawn if picture is not None]


def _draw_history(curve: Curve, history: Sequence[dict[str, Any]], frame: Frame) -> Drawn | None:
    columns = [(label, *_column(history, name)) for name, label in curve.columns]
    colors = (plots.ACCENT, plots.SECOND)
    present = [(label, times, values, color)
               for (label, times, values), color in zip(columns, colors, strict=False)
               if len(times)]  # fmt: skip
    if not present:
        return None
    axes, finish = _canvas(curve, frame)
    for _, times, values, color in present:
        middle, low, high, at = thin(times, values)
        days = plots.days(at)
        axes.fill_between(days, low, high, color=color, alpha=0.16, linewidth=0)
        few = len(middle) < FEW
        axes.plot(days, middle, color=color, linewidth=1.6, marker="o" if few else "",
                  markersize=3.5)  # fmt: skip
    variables = ("--accent", "--second")
    keys = tuple((variables[colors.index(color)], label) for label, _, _, color in present)
    latest = curve.form(float(present[0][2][-1]))
    return Drawn(curve.title, latest, keys if len(curve.columns) > 1 else (), curve.caption,
                 finish())  # fmt: skip


def _draw_probes(probes: Sequence[ProbeStatus], frame: Frame) -> Drawn | None:
    if not probes:
        return None
    axes, finish = _canvas(PROBE, frame)
    at = plots.days([probe.measured_at for probe in probes])
    values = [probe.knn_accuracy for probe in probes]
    axes.axhline(values[0], color=plots.SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(at, values, color=plots.ACCENT, linewidth=1.6, marker="o", markersize=3.5)
    latest = f"{values[-1]:.1%}"
    return Drawn(PROBE.title, latest, (), PROBE.caption, finish())


def _canvas(curve: Curve, frame: Frame) -> tuple[Axes, Callable[[], Markup]]:
    picture = plots.figure(WIDTH, HEIGHT)
    axes = plots.axes(picture)
    plots.time_axis(axes, frame.first, frame.last)
    if curve.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: curve.form(value)))
    if curve.line is not None:
        axes.axhline(curve.line, color=plots.SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    for segment in frame.verdicts:
        start, end = plots.days([segment.start, segment.end])
        color = _VERDICT_COLORS.get(segment.value, plots.QUIET)
        axes.axvspan(start, end, ymin=-0.032, ymax=-0.008, color=color, linewidth=0, clip_on=False)
    for at in plots.days(frame.actions):
        axes.axvline(at, color=plots.WARN, linewidth=1, linestyle=(0, (1, 2)))

    def finish() -> Markup:
        if not curve.log:
            low, high = axes.get_ylim()
            axes.set_ylim(low if curve.bounds[0] is None else curve.bounds[0],
                          high if curve.bounds[1] is None else curve.bounds[1])  # fmt: skip
        return plots.svg(picture, name=curve.name, title=f"{curve.title} over time")

    return axes, finish


def _column(history: Sequence[dict[str, Any]], name: str) -> tuple[Floats, Floats]:
    """Times and values of the rows that have a number of that name."""
    pairs = [
        (float(row["at"]), float(row[name])) for row in history
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]  # fmt: skip
    times, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return times, values


def thin(times: Floats, values: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, least, largest and time of at most `BINS` groups of rows; NaN where the run stood."""
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    width = max(float(times[-1] - times[0]) / BINS, 1e-9)
    bins = np.minimum(((times - times[0]) / width).astype(np.int64), BINS - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    counts = np.diff(np.append(starts, len(times)))
    middle = np.add.reduceat(values, starts) / counts
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    at = np.add.reduceat(times, starts) / counts
    breaks = np.flatnonzero(stops(times)[starts])
    nan = np.full(len(breaks), np.nan)
    middle, low, high = (np.insert(row, breaks, nan) for row in (middle, low, high))
    return middle, low, high, np.insert(at, breaks, at[breaks])
