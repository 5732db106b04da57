"""Pictures as inline SVG by matplotlib, in the colours of the page.

Colours are style sheet variables: a figure is drawn with stand-ins of exact values, which are then
replaced, so that one picture is right in light and in dark. Text stays text. The object interface
alone is used: nothing is left behind in matplotlib's global state.
"""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

INK, SOFT, LINE, CARD = "#010101", "#010102", "#010103", "#010104"
ACCENT, SECOND, OK, WARN, BAD, QUIET = (
    "#010105", "#010106", "#010107", "#010108", "#010109", "#01010a",
)  # fmt: skip
_VARIABLES = {
    INK: "--ink", SOFT: "--soft", LINE: "--line", CARD: "--card", ACCENT: "--accent",
    SECOND: "--second", OK: "--ok-fill", WARN: "--warn-fill", BAD: "--bad-fill", QUIET: "--faint",
}  # fmt: skip
CATEGORIES = tuple(f"#0102{number:02x}" for number in range(1, 13))
"""Stand-ins of the colours of labels; the style sheet has them as `--c1` to `--c12`."""
_VARIABLES |= {color: f"--c{number}" for number, color in enumerate(CATEGORIES, start=1)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 10.5,
    "font.family": "sans-serif",
    "axes.edgecolor": LINE, "axes.labelcolor": SOFT, "axes.linewidth": 0.8, "text.color": INK,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT,
    "xtick.major.size": 0, "xtick.major.pad": 6, "ytick.major.size": 0, "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.axisbelow": True, "lines.solid_capstyle": "round", "path.simplify": True,
    "date.converter": "concise", "date.epoch": "1970-01-01T00:00:00",
}  # fmt: skip
_TICKS = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
_FIRST_TICKS = ["", "%Y", "%b", "%d %b", "%H:%M", "%H:%M"]
"""Of years, months, days, hours, minutes, seconds; and of the first of each."""
_DPI = 72.0  # a point is then a pixel of the viewBox


_TIDY = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<!--.*?-->", ""),
    (r"<style.*?</style>", ""),  # its rules would hold for the whole page
    (r'(<g) id="[^"]*"', r"\1"),  # nobody refers to groups
    (r"font-family: [^;\"]*;? ?", ""),
    (r' transform="rotate\(-0[^"]*"', ""),
    (r"\s*\n\s*", "\n"),
)


def figure(width: float, height: float) -> Figure:
    """An empty picture, in pixels of the page."""
    with matplotlib.rc_context(_STYLE):
        return Figure(
            figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained", facecolor="none"
        )


def axes(picture: Figure, *, grid: bool = True) -> Axes:
    """Its axes, with a quiet grid."""
    with matplotlib.rc_context(_STYLE):
        found = picture.add_subplot(facecolor="none")
        if grid:
            found.grid(axis="y")
        return found


def time_axis(picture: Axes, first: float, last: float) -> None:
    """An axis of local times over unix seconds `first` to `last`."""
    zone = datetime.datetime.now().astimezone().tzinfo
    locator = AutoDateLocator(tz=zone, minticks=3, maxticks=6)
    picture.xaxis.set_major_locator(locator)
    picture.xaxis.set_major_formatter(
        ConciseDateFormatter(
            locator, tz=zone, formats=_TICKS, zero_formats=_FIRST_TICKS, show_offset=False
        )
    )
    room = max((last - first) * 0.02, 0.5)
    picture.set_xlim(*days([first - room, last + room]))


def days(seconds: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unix seconds as matplotlib's days."""
    return np.asarray(seconds, dtype=np.float64) / 86_400


def svg(picture: Figure, *, name: str, title: str) -> Markup:
    """The picture as an SVG element of the page.

    Args:
        picture: The figure.
        name: Its ids begin with it: they must differ between the pictures of one page.
        title: What a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": "online-swav"}):
        FigureCanvasSVG(picture).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for pattern, replacement in _TIDY:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    label = escape(title)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return Markup(text)  # by matplotlib, which escapes the texts in it
