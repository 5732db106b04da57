"""`status`: the live view of a run, from its folder or, from anywhere, through its metrics port."""

from __future__ import annotations

import argparse
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.commands.options import run_folder
from online_swav.errors import ConfigError
from online_swav.wording import duration

if TYPE_CHECKING:
    from online_swav.status import RunStatus

EVERY_S = 1.0
LATE_S = 5.0
"""A snapshot is written every second: of an older one the age is told."""
_TIMEOUT_S = 5.0
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Look:
    """One snapshot and when it was made."""

    text: str
    """As JSON."""
    status: RunStatus
    at: float
    """Unix seconds."""

    @property
    def age_s(self) -> float:
        """Seconds since then."""
        return max(time.time() - self.at, 0.0)

    def as_json(self) -> str:
        """One line of JSON, with its age."""
        from online_swav.console import status_json

        return status_json(self.status, age_s=self.age_s)


def status(arguments: list[str]) -> int:
    """The newest snapshot of a run, once or again and again."""
    parser = argparse.ArgumentParser(prog="online-swav status", description="What a run is doing.")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--run", type=Path, metavar="DIR", help="the run folder")
    place.add_argument("--url", help="the run's metrics port instead, from anywhere: "
                       "http://HOST:9464")  # fmt: skip
    parser.add_argument("--watch", action="store_true", help="draw it every second, until Ctrl-C; "
                        "into a pipe, a line whenever something changed")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the whole snapshot as JSON, with "
                        "age_s, the seconds since it was written")  # fmt: skip
    options = parser.parse_args(arguments)
    look: Callable[[], Look]
    if options.url is not None:
        look = partial(_look_at_port, _base(options.url))
        look()  # a wrong address is said at once; later the run may come and go
    else:
        look = partial(_look_into_folder, run_folder(options.run))
    if options.watch:
        try:
            watch(look, as_json=options.json)
        except KeyboardInterrupt:
            return 0
    found = look()
    if options.json:
        print(found.as_json())
        return 0
    from rich.console import Console

    from online_swav.console import live_panel

    console = Console()
    console.print(live_panel(found.status, found.at, age_s=found.age_s))
    if note := _age_note(found):
        console.print(note)
    return 0


def watch(
    look: Callable[[], Look],
    *,
    as_json: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run until interrupted; one that cannot be read now is waited for."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from online_swav.console import live_panel, plain_line

    console = Console(highlight=False)
    if not console.is_terminal or as_json:
        shown = ""
        while True:
            try:
                found = look()
                line = plain_line(found.status, found.at, age_s=found.age_s)
                # The clock at the start of a line is no news.
                news = line.partition(" ")[2] + found.text * as_json
                line = found.as_json() if as_json else line
            except ConfigError as error:
                line = news = "" if as_json else str(error)
            if news != shown and line:
                print(line, flush=True)
            shown = news
            pause(EVERY_S)
    with Live(console=console, auto_refresh=False) as view:
        while True:
            try:
                found = look()
                note = _age_note(found) or "Ctrl-C ends this view, not the run."
                panel = live_panel(found.status, found.at, age_s=found.age_s)
                view.update(Group(panel, Text(note, style="dim")), refresh=True)
            except ConfigError as error:
                view.update(Text(f"{error} (trying again)"), refresh=True)
            pause(EVERY_S)


def _age_note(found: Look) -> str:
    if found.age_s <= LATE_S or found.status.state in ("stopped", "failed"):
        return ""
    return f"This snapshot is {duration(found.age_s)} old."


def _look_into_folder(run: Path) -> Look:
    """Of the run's `status.json`.

    Raises:
        ConfigError: If it is not there, or of another version.
    """
    path = run / "status.json"
    try:
        text, at = path.read_text(), path.stat().st_mtime
    except FileNotFoundError:
        raise ConfigError(f"{run} has not reported yet: {path.name} is missing") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return Look(text, _parsed(text, str(path)), at)


def _base(url: str) -> str:
    """The address without a path; `HOST:PORT` is one too.

    Raises:
        ConfigError: If it is no address of a web page.
    """
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(full)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"--url {url}: write it as http://HOST:PORT, the run's --metrics.port")
    return f"{parts.scheme}://{parts.netloc}"


def _look_at_port(base: str) -> Look:
    """Of a metrics port.

    Raises:
        ConfigError: If nobody answers there, or it is no run.
    """
    url = f"{base}/status.json"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text = answer.read(_MOST_BYTES).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(
                f"{base} is no online-swav run: it answers {error.code} for /status.json"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"cannot connect to {base}: {reason}. Is the run up, and is this its --metrics.port? "
            "Beyond loopback it listens only with --metrics.host."
        ) from error
    return Look(text, _parsed(text, url), time.time())


def _parsed(text: str, place: str) -> RunStatus:
    from pydantic import ValidationError

    from online_swav.console import status_from_json

    try:
        return status_from_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{place} is no snapshot of an online-swav run of this version "
            f"({where + ': ' if where else ''}{first['msg']})"
        ) from error
