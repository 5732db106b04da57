"""The page `/` on the metrics port: verdict, findings in words, key numbers."""

from __future__ import annotations

from online_swav.guide import guide_address
from online_swav.pages import render, style_sheet
from online_swav.status import RunStatus
from online_swav.summary import finding_text, headline, key_numbers

REFRESH_S = 5
STYLE = style_sheet("look.css", "status_page.css")


def _sources(status: RunStatus) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "images": f"{c.trained:,} trained, {c.replayed:,} replayed, "
            f"{sum(c.dropped.values()):,} dropped",
            "shards": "shards: "
            + (", ".join(f"{n:,} {state}" for state, n in c.shards.items() if n) or "none yet"),
            "paused": c.paused,
        }
        for name, c in status.sources.items()
    ]


def status_page(status: RunStatus, now: float, *, report: bool, guide: bool) -> str:
    """The page.

    Args:
        status: What it shows.
        now: Unix seconds.
        report: Whether `/report` has something to serve.
        guide: Whether `/docs/health.md` has.
    """
    return render(
        "status_page.html", style=STYLE, refresh_s=REFRESH_S, now=now, run=status.run,
        headline=headline(status, now), tiles=key_numbers(status, now),
        findings=[finding_text(f, now, href=guide_address(f.name) if guide else None)
                  for f in status.health.findings],
        sources=_sources(status), report=report,
    )  # fmt: skip
