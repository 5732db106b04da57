"""Prints docs/metrics.md, made of the table in `online_swav.metrics`.

python -m online_swav.metrics_table > docs/metrics.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from online_swav.metrics import GROUPS, PREFIX, MetricSpec

_HEAD = f"""\
# Metrics

Made by `python -m online_swav.metrics_table > docs/metrics.md`; do not edit.

One run serves one page, `http://127.0.0.1:9464/metrics` unless told otherwise. It outlives the
learner: while that is down its gauges are withheld, so that they go stale instead of lying, and
its counters and histograms keep their last values. The prefix `{PREFIX}` is left out below, and
so is the label `run`, the name of the run folder, which every family has. `process_*` tells of
the process that serves the page. Alerts are explained in [alerts.md](alerts.md), findings in
[health.md](health.md).
"""


def table() -> str:
    """The page in Markdown."""
    parts = [_HEAD]
    for title, specs in GROUPS.items():
        parts.append(
            f"## {title}\n\n"
            "| name | type | unit | labels | meaning | healthy | alert |\n"
            "|---|---|---|---|---|---|---|\n" + "".join(_row(spec) for spec in specs)
        )
    return "\n".join(parts)


def _row(spec: MetricSpec) -> str:
    alert = f"[{spec.alert}](alerts.md#{spec.alert.lower()})" if spec.alert else ""
    cells = (
        f"`{spec.name}`", spec.kind, spec.unit, "; ".join(_labels(spec)),
        spec.meaning.replace("|", r"\|"), spec.healthy, alert,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n".replace("  ", " ")


def _labels(spec: MetricSpec) -> Iterator[str]:
    for name, values in spec.labels.items():
        shown = ", ".join(values) if len(values) <= 10 else f"{len(values)} values"
        yield f"`{name}`" + (f": {shown}" if values else "")


if __name__ == "__main__":
    sys.stdout.write(table())
