"""Displays of a RunStatus: the live view, a log line, JSON; and how processes log."""

from __future__ import annotations

import json as json_module
import logging
import math
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from online_swav import wording
from online_swav.status import RunStatus

_SPARKS = "▁▂▃▄▅▆▇█"
_VERDICT_STYLES = {"ok": "green", "degraded": "yellow", "collapsed": "bold red", "unknown": "dim"}


class _Prose:
    """A paragraph in which no number is parted from its unit at the end of a line."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        lines = textwrap.wrap(wording.unbroken(self._text), options.max_width,
                              break_on_hyphens=False)  # fmt: skip
        # A Text, as all names here: a folder may be called "run[/x]", which is no markup.
        yield Text("\n".join(lines).replace("\u00a0", " "))


def live_panel(status: RunStatus, now: float, *, age_s: float = 0.0) -> RenderableType:
    """Everything to see of a run, readable in seconds at 80 columns and without colour.

    Args:
        status: The snapshot.
        now: When it was made, unix seconds.
        age_s: Seconds since then.
    """
    learner = status.learner
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    gone = wording.has_gone(status, age_s)
    if gone:
        table.add_row("gone", Text(wording.gone(age_s), style="bold red"))
    if learner is None:
        table.add_row("learner", "starting ...")
    else:
        if wording.is_silent(status):
            silent = (
                f"DOWN: no report for {wording.since(learner.reported_at, now)}; numbers are old"
            )
            table.add_row("learner", Text(silent, style="bold red"))
        table.add_row(
            "learning",
            f"step {learner.step}   {learner.images_per_s:.0f} images/s   "
            f"waiting {learner.wait_ratio:.0%}   {learner.samples_seen:,} images seen",
        )
        if learner.loss_ratio is not None:
            table.add_row("loss / log K", _bar(learner.loss_ratio))
        table.add_row("health", _health(status))
    if status.probes:
        values = [probe.knn_accuracy for probe in status.probes]
        before = f"{values[0]:.3f} {_sparkline(values)} " if len(values) > 1 else ""
        table.add_row("k-NN", f"{before}{values[-1]:.3f}  (step {status.probes[-1].step})")
    for name, c in status.sources.items():
        shards = "  ".join(f"{count} {state}" for state, count in c.shards.items() if count)
        dropped = sum(c.dropped.values())
        table.add_row(
            Text(f"source {name}"), f"shards: {shards or 'none yet, waiting for the first'}"
        )
        table.add_row(
            "", f"images: {c.trained:,} trained  {c.replayed:,} replayed  {dropped:,} dropped"
        )
        if c.oldest_unread_at is not None:
            table.add_row("", f"lag {wording.since(c.oldest_unread_at, now)}")
    checkpoint = status.checkpoint
    table.add_row(
        "checkpoint",
        f"step {checkpoint.step}, {wording.since(checkpoint.published_at, now)} ago"
        if checkpoint
        else "none yet",
    )
    actions = learner.actions if learner is not None else {}
    if any(actions.values()):
        done = "  ".join(f"{number} {kind}" for kind, number in actions.items() if number)
        table.add_row("acted", f"{done}  (by itself, since the run was created)")
    if status.state == "failed":
        table.add_row("failed", Text(status.message, style="bold red"))
    findings = [_Prose(wording.finding_line(f, now)) for f in status.health.findings]
    findings += [
        _Prose(f"! source {name} is paused: {c.paused}. {wording.PAUSE_REMEDY}")
        for name, c in status.sources.items() if c.paused
    ]  # fmt: skip
    state = f"GONE for {wording.duration(age_s)}, was {status.state}" if gone else status.state
    title = Text(f"online-swav {status.run}: {state}")
    return Panel(Group(table, *findings), title=title, title_align="left")


def _health(status: RunStatus) -> Text:
    learner = status.learner
    assert learner is not None
    words, verdict = wording.health_words(status.health), status.health.verdict
    text = Text("warming up: " * (verdict == "unknown") + words, style=_VERDICT_STYLES[verdict])
    for name, value, form in (
        ("usage", learner.signs.usage_perplexity_ratio, "{:.0%}"),
        ("rank", learner.signs.effective_rank, "{:.0f}"),
        ("spread", learner.embedding_std_ratio, "{:.2f}"),
    ):
        if value is not None:
            text.append(f"   {name} {form.format(value)}", style="default")
    return text


def _bar(ratio: float, width: int = 20) -> str:
    filled = 0 if math.isnan(ratio) else round(min(max(ratio, 0.0), 1.0) * width)
    return f"{ratio:.3f} {'█' * filled}{'░' * (width - filled)}"


def _sparkline(values: list[float], width: int = 24) -> str:
    shown = values[-width:]
    low, high = min(shown), max(shown)
    span = high - low or 1.0
    return "".join(_SPARKS[round((v - low) / span * (len(_SPARKS) - 1))] for v in shown)


def plain_line(status: RunStatus, now: float, *, age_s: float = 0.0) -> str:
    """One `event key=value` line for logs. See `live_panel`."""
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    gone = wording.has_gone(status, age_s)
    parts = [f"{clock} status state=" + (f"gone was={status.state}" if gone else status.state)]
    learner = status.learner
    if learner is not None:
        if wording.is_silent(status):
            parts.append(f"learner=down silent_s={max(now - learner.reported_at, 0.0):.0f}")
        parts.append(f"step={learner.step} images_per_s={learner.images_per_s:.0f}")
        parts.append(f"waiting={learner.wait_ratio:.2f}")
        if learner.loss_ratio is not None:
            parts.append(f"loss_ratio={learner.loss_ratio:.3f}")
    parts.append(f"health={status.health.verdict}")
    for finding in status.health.findings:
        about = f":{finding.subject}" if finding.subject else ""
        parts.append(f"{'advice' if finding.advice else 'finding'}={finding.name}{about}")
    actions = learner.actions if learner is not None else {}
    parts += [f"acted_{kind}={number}" for kind, number in actions.items() if number]
    if status.probes:
        parts.append(f"knn={status.probes[-1].knn_accuracy:.3f}@{status.probes[-1].step}")
    for name, c in status.sources.items():
        unread, done = c.shards.get("unread", 0), c.shards.get("done", 0)
        parts.append(
            f"source={name} shards_unread={unread} shards_done={done} trained={c.trained} "
            f"replayed={c.replayed} dropped={sum(c.dropped.values())}" + " paused" * bool(c.paused)
        )
    return " ".join(parts)


def summary_lines(status: RunStatus, run: str) -> list[str]:
    """What to say at the end of a run."""
    lines = [f"{status.state}: {status.message}"]
    if status.learner is not None:
        step, seen = status.learner.step, status.learner.samples_seen
        health = wording.health_words(status.health)
        lines.append(f"step {step}, {seen:,} images seen, health: {health}")
        acted = [f"{number} {kind}" for kind, number in status.learner.actions.items() if number]
        if acted:
            lines.append(f"it acted by itself: {', '.join(acted)} (events.jsonl has when and why)")
    lines += [wording.finding_line(f, time.time()) for f in status.health.findings]
    if status.probes:
        curve = "  ".join(f"{p.step}: {p.knn_accuracy:.3f}" for p in status.probes)
        lines.append(f"k-NN by step  {curve}")
    for name, c in status.sources.items():
        lines.append(
            f"source {name}: {c.trained:,} trained, {c.replayed:,} replayed, "
            f"{sum(c.dropped.values())} dropped; "
            f"shards: {c.shards.get('done', 0)} done, {c.shards.get('quarantined', 0)} quarantined"
        )
        if c.paused:
            unread = c.shards.get("unread", 0)
            lines.append(f"source {name} is paused, {unread} shards unread: {c.paused}")
    lines.append(f"run folder {run}; the same command goes on from here")
    return lines


_STATUS: TypeAdapter[RunStatus] = TypeAdapter(RunStatus)


def status_json(status: RunStatus, *, age_s: float | None = None) -> str:
    """The snapshot as one line of JSON; with the seconds since it was made, where it is told."""
    age = {} if age_s is None else {"age_s": round(age_s, 1)}
    return json_module.dumps(_finite(asdict(status)) | age)


def status_from_json(text: str) -> RunStatus:
    """Inverse of `status_json`; NaN and infinities survive, an age does not."""
    return _STATUS.validate_json(text)


def _finite(value: Any) -> Any:
    """JSON has no NaN: such a number becomes the string that pydantic reads back."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": round(record.created, 3), "level": record.levelname.lower(),
            "logger": record.name, "event": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json_module.dumps(entry)


def configure_logging(*, json: bool, file: str | None = None) -> None:
    """Log from INFO on, to `file` or else to the terminal; once per process."""
    logging.raiseExceptions = False  # a full disk must not end a process that wants to say so
    formatter: logging.Formatter = (
        _JsonFormatter()
        if json
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    handler: logging.Handler = (
        logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler()
    )
    handler.setFormatter(formatter)
    for name in ("online_swav", "streams"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [handler]


@dataclass(frozen=True, slots=True)
class Logging:
    """How actors log; applied once in each of their processes."""

    json: bool
    file: str
    """Where every process of the run appends its lines. The driver shows what arrives there:
    Ray's own forwarding would mix in the notes of its internal actors."""

    def set_up(self) -> None:
        """Configure the process."""
        configure_logging(json=self.json, file=self.file)
