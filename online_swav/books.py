"""The books of a run from outside: totals, invariants, rebuilding. Reads a copy, changes nothing.

SQLite lets one process write while others read, so all of this works on a live run too.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.errors import ConfigError
from online_swav.lineage import Base, Lineage, newest_checkpoint
from streams.counts import SourceCounts
from streams.errors import LedgerError
from streams.ledger import Ledger
from streams.ledger_file import check_format
from streams.ledger_reports import broken_invariants, count_sources


@contextmanager
def read_only_book(run: Path) -> Iterator[sqlite3.Connection]:
    """The run's book, for reading.

    Raises:
        ConfigError: If the run has none.
        LedgerError: If it cannot be read, or is of another format.
    """
    path = run / "ledger.sqlite"
    if not path.exists():
        raise ConfigError(
            f"{path} is missing; `online-swav ledger rebuild --run {run}` makes it anew from the "
            "checkpoints"
        )
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            check_format(db, path)
            yield db
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path} cannot be read ({error}): a run is just making it, or it is damaged; move "
                "it away then, and `online-swav ledger rebuild` makes it anew"
            ) from error


def _committed_step(run: Path) -> int:
    newest = run / "checkpoints" / "latest"
    return int(newest.read_text().strip().removeprefix("step-")) if newest.exists() else 0


def totals(run: Path) -> dict[str, SourceCounts]:
    """Counts per source.

    Raises:
        ConfigError: If the run has no book.
        LedgerError: If it cannot be read.
    """
    with read_only_book(run) as db:
        return count_sources(db, _committed_step(run))


def verify(run: Path) -> list[str]:
    """What is broken in the book, in words; empty when all is well.

    Raises:
        ConfigError: If the run has no book.
    """
    try:
        with read_only_book(run) as db:
            return broken_invariants(db)
    except LedgerError as error:
        return [str(error)]


def rebuild(run: Path) -> str:
    """Make the book anew from the newest checkpoint's lineage of deltas; what was done, in words.

    Raises:
        ConfigError: If a book is there, or the run has no checkpoint.
        CheckpointError: If a delta is missing.
    """
    path = run / "ledger.sqlite"
    if path.exists():
        raise ConfigError(f"{path} is there; move it away first if it is damaged")
    newest = newest_checkpoint(run)
    if newest is None:
        raise ConfigError(f"{run} has no checkpoint to rebuild the book from")
    lineage = Lineage(run)
    base = lineage.newest_base()
    staging = path.with_name(".ledger-rebuild.sqlite")
    used, number = "", 0
    for start in ([base] if base else []) + [None]:
        for leftover in staging.parent.glob(f"{staging.name}*"):
            leftover.unlink()
        try:
            number = _rebuild_into(staging, lineage, newest, start)
            used = f"the copy of step {start.step} and " if start else ""
            break
        except LedgerError:
            if start is None:
                raise
    staging.replace(path)
    return f"rebuilt {path} up to step {newest.manifest.step} from {used}{number} deltas"


def _rebuild_into(path: Path, lineage: Lineage, newest: Checkpoint, base: Base | None) -> int:
    """Make the book from a copy of this lineage, and the deltas above it.

    Raises:
        LedgerError: If the copy is of a branch that was rolled back.
    """
    deltas = []
    common = -1
    for delta in lineage.walk(newest):
        if base is not None and (delta.step, delta.version) == (base.step, base.version):
            common = delta.step
            break
        deltas.append(delta)
    if base is not None:
        if common < 0:
            raise LedgerError(f"{base.path} is of a branch that was rolled back")
        shutil.copyfile(base.path, path)
    ledger = Ledger(path)
    try:
        if common >= 0:
            ledger.begin(common)
        ledger.apply(deltas[::-1], folded_step=Checkpoints(path.parent, keep=1).oldest_step())
    finally:
        ledger.close()
    return len(deltas)


def print_totals(counts: dict[str, SourceCounts]) -> None:
    """The books as two tables."""
    console = Console()
    if not counts:
        console.print("The book is empty: no shard was found yet.")
        return
    shards = Table(title="shards", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    samples = Table(title="samples", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    shards.add_column("source")
    samples.add_column("source")
    for state in next(iter(counts.values())).shards:
        shards.add_column(state, justify="right")
    for name in ("known", "trained", "dropped", "no fate yet", "replayed", "uncommitted"):
        samples.add_column(name, justify="right")
    for source, c in counts.items():
        shards.add_row(source, *(str(n) for n in c.shards.values()))
        dropped = sum(c.dropped.values())
        samples.add_row(
            source, str(c.samples_known), str(c.trained), str(dropped),
            str(max(c.samples_known - c.trained - dropped, 0)),
            str(c.replayed), str(c.uncommitted),
        )  # fmt: skip
    console.print(shards)
    console.print(samples)
    for source, c in counts.items():
        reasons = ", ".join(f"{n} {reason}" for reason, n in c.dropped.items() if n)
        if reasons:
            console.print(f"dropped of {source}: {reasons}", markup=False, highlight=False)
    console.print(
        "known: in shards read to their end. uncommitted: trained since the newest checkpoint.",
        style="dim", highlight=False,
    )  # fmt: skip
