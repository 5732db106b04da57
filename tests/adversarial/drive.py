"""Sends the shards of a case through the real chain, without Ray."""

from __future__ import annotations

import ctypes
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.config import CropFamily, IngestConfig
from streams.counts import SourceCounts
from streams.ingest import Ingest
from streams.ledger import Ledger
from streams.quarantine import Quarantine
from streams.shard import Origin, SampleId
from streams.sources import DirectorySource
from streams.testing import FakeClock
from tests.adversarial.case import LIMITS, Case

SETTLE_S = 20.0
FAMILIES = (CropFamily(size=8, num=2, scale=(0.3, 1.0)),)
MIXED = IngestConfig(
    batch_size=64, window=64, window_bytes=16 * 2**20, open_shards=2, limits=LIMITS
)
STEP_BY_STEP = IngestConfig(batch_size=2, window=1, open_shards=1, limits=LIMITS)
"""Reads no further than the batch at hand, so that a file can change between two batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a case."""

    counts: SourceCounts
    """Totals over all sources."""
    trained: Counter[SampleId]
    refused: int
    """Images that the ledger did not grant."""
    broken: list[str]
    """What `verify` says."""
    samples: list[dict[str, Any]]
    """Lines of `samples.jsonl`."""
    shards: list[dict[str, Any]]
    """Lines of `shards.jsonl`."""
    left_out: int
    touched: list[Path]
    """Files outside the run's folder that were made, changed or deleted."""
    peak_bytes: int
    """Growth of the resident memory at its peak."""


def drive(case: Case, folder: Path) -> Result:
    """Poll, read, decode, crop and claim until nothing comes any more.

    Args:
        case: What to do.
        folder: An empty folder. The source is `in`, the run's files are in `run`.
    """
    source_folder, run = folder / "in", folder / "run"
    source_folder.mkdir()
    run.mkdir()
    case.write(source_folder)
    clock = FakeClock(time.time() + case.clock_ahead_s)
    sources = [
        DirectorySource(f"s{i}", str(source_folder / name), settle_s=SETTLE_S, clock=clock)
        for i, name in enumerate(case.sources)
    ]
    by_step = case.meddle is not None or case.before_open is not None
    ledger = Ledger(run / "ledger.sqlite")
    ingest = Ingest(
        books=ledger, quarantine=Quarantine(run / "quarantine"), families=FAMILIES,
        config=STEP_BY_STEP if by_step else MIXED, worker="w", generation=ledger.generation, seed=0,
    )  # fmt: skip
    trained: Counter[SampleId] = Counter()
    refused = step = idle = 0
    changes = [change for change in (case.before_open, case.meddle) if change is not None]
    before, resident = snapshot(folder), _reset_peak()
    while idle < 5:
        for source in sources:
            ledger.add(source.poll())
        if step == idle == 0:
            clock.advance(case.clock_jump_s)
            if case.before_open is not None:
                changes.pop(0)(source_folder)
                before = snapshot(folder)
        if step == idle == 0 and case.crash_after:
            step += 1
            lease = ledger.lease("dead", generation=ledger.generation)
            assert lease is not None
            samples = [SampleId(lease.shard.id, i) for i in range(case.crash_after)]
            ledger.claim(
                [Origin(sample, lease.pass_number, lease.token) for sample in samples],
                generation=ledger.generation, rank=0, step=step,
            )  # fmt: skip
            trained.update(samples)
            ledger.release("dead", crashed=True)
            resident = _reset_peak()
        batch = ingest.next_batch(flush=True)
        if batch is None:
            idle += 1
            clock.advance(SETTLE_S - 5)
        else:
            step += 1
            granted = ledger.claim(batch.origins, generation=ledger.generation, rank=0, step=step)
            trained.update(o.sample for o, ok in zip(batch.origins, granted, strict=True) if ok)
            refused += granted.count(False)
        if changes:
            changes.pop(0)(source_folder)
            before = snapshot(folder)
    peak = _peak() - resident
    after = snapshot(folder)
    result = Result(
        counts=_sum(ledger.counts(committed_step=step)),
        trained=trained,
        refused=refused,
        broken=ledger.verify(),
        samples=_lines(run / "quarantine" / "samples.jsonl"),
        shards=_lines(run / "quarantine" / "shards.jsonl"),
        left_out=sum(source.left_out for source in sources),
        touched=[p for p in before.keys() | after.keys() if before.get(p) != after.get(p)],
        peak_bytes=peak,
    )
    ledger.close()
    return result


def snapshot(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Kind, size and modification time of everything below `folder` but the run's own files."""
    run = folder / "run"
    found = {}
    for path in folder.rglob("*"):
        if path != run and run not in path.parents:
            status = path.lstat()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def _sum(counts: dict[str, SourceCounts]) -> SourceCounts:
    """Totals over sources, of the numbers that tests look at."""
    shards: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for source in counts.values():
        shards.update(source.shards)
        dropped.update(source.dropped)
    return SourceCounts(
        shards=dict(+shards),
        samples_known=sum(source.samples_known for source in counts.values()),
        trained=sum(source.trained for source in counts.values()),
        uncommitted=sum(source.uncommitted for source in counts.values()),
        dropped=dict(+dropped),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _reset_peak() -> int:
    """Start a new peak of the resident memory (Linux); the resident bytes now."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # what making the fixture left over would hide a growth
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) * 1024
