"""Are the sources readable, of what use are their images, and how fast does a reader read them?"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, ok, refusal, warning
from online_swav.preflight.reading import Order, Reading

_MOST_LISTED = 2000
"""Files whose time and size are asked for; of more, the first and the last by name."""
_HANGING_S = 10.0
"""Seconds beyond the time for reading after which storage counts as hanging."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is read; whichever comes first."""

    seconds: float
    """For all sources together."""
    shards: int
    """Shards that are opened, of each source."""
    images: int
    """Images of each source."""
    num_bytes: int
    """Bytes of each source."""


AT_START = Effort(seconds=0.3, shards=3, images=24, num_bytes=3 * 2**20)
THOROUGH = Effort(seconds=3.0, shards=8, images=400, num_bytes=64 * 2**20)


class SourceReading:
    """Begins to read at once, in a process of its own (`reading.py`).

    Args:
        config: The run.
        shards: Tars that are there, by source.
        effort: How much to read.
        hanging_s: Seconds beyond `effort.seconds` after which it is given up.
    """

    def __init__(
        self, config: RunConfig, shards: dict[str, list[str]], effort: Effort,
        *, hanging_s: float = _HANGING_S,
    ) -> None:  # fmt: skip
        self._config = config
        self._shards = shards
        self._seconds = effort.seconds + hanging_s
        order = Order(
            shards={name: choose(paths, effort.shards) for name, paths in shards.items()},
            families=config.crops, limits=config.ingest.limits,
            settle_s=config.discovery.settle_s, seconds=effort.seconds, images=effort.images,
            num_bytes=effort.num_bytes,
        )  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "online_swav.preflight.reading"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        told: Any = self._process.stdin
        with suppress(BrokenPipeError):  # it died at once; `finish` says why
            told.write(order.to_json())
            told.close()
        self._process.stdin = None

    def finish(self) -> tuple[list[Check], float | None]:
        """Checks of all sources, and one reader's images per second; None if none was timed."""
        try:
            output, errors = self._process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            output, errors = self._give_up()
            return [self._broken(output, f"did not end within {self._seconds:.0f} s: is the "
                                 "storage slow, or does it hang?")], None  # fmt: skip
        if self._process.returncode != 0:
            return [self._broken(output, self._why(errors))], None
        last = json.loads(output.splitlines()[-1])
        readings = {name: Reading(**raw) for name, raw in last["readings"].items()}
        timed = sum(reading.timed for reading in readings.values())
        seconds = sum(reading.seconds for reading in readings.values())
        return judge(self._config, self._shards, readings), timed / seconds if timed else None

    def _give_up(self) -> tuple[str, str]:
        self._process.kill()
        try:
            output, errors = self._process.communicate(timeout=1.0)
            return output, errors
        except subprocess.TimeoutExpired:
            return "", ""  # the kernel waits for the storage, too

    def _why(self, errors: str) -> str:
        code = self._process.returncode
        if code < 0:
            return (
                f"was killed by {signal.Signals(-code).name}. The run lives with that: it puts "
                "such a shard into quarantine after --ingest.max-attempts readers"
            )
        return f"failed: {(errors.strip().splitlines() or ['without a word'])[-1]}"

    def _broken(self, output: str, what: str) -> Check:
        opened: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
        where = f" at {opened[-1]['shard']}" if opened else ""
        return warning("source", f"reading a few images{where} {what}")


def choose(paths: Sequence[str], most: int) -> list[str]:
    """The newest, the oldest, and what lies evenly between them, by modification time."""
    if len(paths) > _MOST_LISTED:
        paths = [*paths[: _MOST_LISTED // 2], *paths[-_MOST_LISTED // 2 :]]
    times = {}
    for path in paths:
        with suppress(OSError, UnicodeEncodeError):  # gone, or never offered: no UTF-8
            path.encode()
            times[path] = Path(path).stat().st_mtime_ns
    newest_first = sorted(times, key=lambda path: (-times[path], path))
    last = len(newest_first) - 1
    if last < most:
        return newest_first
    # After the newest the oldest: if time is short, these two say most.
    between = [round(last * i / (most - 1)) for i in range(most - 1, 0, -1)]
    return [newest_first[i] for i in [0, *between]]


def judge(
    config: RunConfig, shards: dict[str, list[str]], readings: dict[str, Reading]
) -> list[Check]:
    """What the readings mean.

    Args:
        config: The run.
        shards: Tars that are there, by source.
        readings: What came out of some of them, by source.
    """
    checks = [_usable(config, name, shards[name], r) for name, r in readings.items()]
    # A run that has begun knows its rubbish already, and may wait for what comes next.
    begun = (Path(config.run) / "ledger.sqlite").exists()
    if readings and not begun and all(_useless(reading) for reading in readings.values()):
        checks = [refusal(check.name, check.text) for check in checks]
    for name, reading in readings.items():
        more = (
            _small_pictures(config, name, reading),
            _long_queue(config, name, shards[name], reading),
        )
        checks += [check for check in more if check is not None]
    return checks


def _useless(reading: Reading) -> bool:
    return reading.tried > 0 and reading.images == 0


def _usable(config: RunConfig, source: str, paths: Sequence[str], reading: Reading) -> Check:
    if not paths:
        return warning("source", f"source {source}: no shard yet; waiting for the first one")
    if not reading.tried:
        return ok("source", f"source {source}: {len(paths)} shards, all still being written")
    tried = f"source {source}: {reading.tried} of {len(paths)} shards looked into"
    faults = "; ".join([*reading.bad_shards[:2], *reading.bad_images[:2]])
    if _useless(reading):
        return warning("source", f"{tried}, and no image in them can be used: "
                       f"{faults or 'they hold no sample'}")  # fmt: skip
    side = statistics.median(reading.short_sides)
    text = f"{tried}, {reading.images} images read, short side {side:.0f} px in the median"
    bad = len(reading.bad_images)
    share = bad / (reading.images + bad)
    if bad:
        text += f", {bad} cannot be used ({share:.0%})"
    if not faults:
        return ok("source", text)
    if share > config.budget.max_bad_share:
        remedy = (
            f"Over {config.budget.max_bad_share:.0%} a source is paused: correct it, or raise "
            "--budget.max-bad-share."
        )
    else:
        remedy = "They go to quarantine/, with their reasons."
    return warning("source", f"{text}: {faults}. {remedy}")


def _small_pictures(config: RunConfig, source: str, reading: Reading) -> Check | None:
    largest = max(family.size for family in config.crops)
    if not reading.short_sides or (side := statistics.median(reading.short_sides)) >= largest / 2:
        return None
    return warning(
        "small_pictures",
        f"source {source}: pictures of {side:.0f} px (median of the short sides) are blown up to "
        f"crops of {largest} px, which costs time and teaches nothing. Set smaller `crops`, of "
        f"{side:.0f} px at most.",
    )


def _long_queue(
    config: RunConfig, source: str, paths: Sequence[str], reading: Reading
) -> Check | None:
    """Where a stream grows, or other sources feed the queue too, nobody knows."""
    length = config.learner.queue.length
    if (
        not length or not reading.images or config.when_idle == "wait"
        or len(config.source) > 1 or len(paths) > _MOST_LISTED
    ):  # fmt: skip
        return None
    stored = sum(Path(path).stat().st_size for path in paths if Path(path).exists())
    images = stored / (reading.num_bytes / reading.images)
    if length <= images / 2:
        return None
    return warning(
        "queue_length",
        f"source {source} holds about {images:,.0f} images, and the queue of {length} is more "
        "than half of them: codes are shared with older views of the same images. "
        f"--learner.queue.length {images / 2:.0f} at most, or none.",
    )
