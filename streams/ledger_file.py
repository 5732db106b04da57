"""The book's file: schema, opening, transactions, durability."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from streams.errors import LedgerError
from streams.ledger_schema import FORMAT, INDEXES_AND_TRIGGERS, SCHEMA

WAL_PAGES = 4096  # 16 MiB
CACHE_KIB = 64 * 1024  # the pages of thousands of open shards in an index of millions


class LedgerFile:
    """One SQLite file with one writer. `Ledger` keeps its books in it.

    Args:
        path: The file; created when missing.

    Raises:
        LedgerError: If the file is no book of this format, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._copying = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A process that dies loses nothing with NORMAL; power loss may lose the newest
            # transactions, and `flush` makes them durable before a checkpoint is published.
            self._db.execute("PRAGMA synchronous=NORMAL")
            # A claim writes some twenty pages: with the default of 1000, one claim in fifty would
            # wait for the disk.
            self._db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
            self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            known = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
            if known:
                check_format(self._db, path)
            self._db.executescript(SCHEMA + INDEXES_AND_TRIGGERS)
            with self._transaction():
                self._set_meta("format", FORMAT)
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path} is not a readable ledger ({error}); move it away and rebuild it from the "
                "run's checkpoints with `online-swav ledger rebuild`"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            self._stamp: int | None = None
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the disk refuses into an error that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(
                f"cannot write the ledger {self.path} ({error}); make room or fix the permissions, "
                "then start the same command again: nothing is lost"
            ) from error

    def _meta(self, name: str, default: int = 0) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else int(row[0])

    def _set_meta(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _next(self, name: str) -> int:
        row = self._db.execute(
            "INSERT INTO meta VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1 "
            "RETURNING value", (name,),
        ).fetchall()[0]  # fmt: skip
        return int(row[0])

    def _version(self) -> int:
        """The version of what this transaction writes; the same for all of it."""
        if self._stamp is None:
            self._stamp = self._next("version")
        return self._stamp

    def close(self) -> None:
        """Make everything durable and close the file."""
        with self._lock:
            self.flush()
            self._db.close()

    def flush(self) -> None:
        """Make every transaction so far survive a power loss (called before a checkpoint)."""
        with self._lock, self._explained():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy_to(self, path: Path) -> bool:
        """Write a whole copy of the book to `path`, while others go on writing; False when busy.

        Raises:
            LedgerError: If the disk refuses; nothing is left then.
        """
        if not self._copying.acquire(blocking=False):
            return False
        staging = path.with_name(f".{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staging.unlink(missing_ok=True)
            with (
                self._explained(),
                closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(staging)) as target,
            ):
                source.backup(target)
            with staging.open("rb") as file:
                os.fsync(file.fileno())
            staging.replace(path)
        except OSError as error:
            raise LedgerError(f"cannot copy the ledger to {path}: {error.strerror}") from error
        finally:
            staging.unlink(missing_ok=True)
            self._copying.release()
        return True

    @property
    def size_bytes(self) -> int:
        """Bytes of the book on disk."""
        parts = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())


def check_format(db: sqlite3.Connection, path: Path) -> None:
    """Make sure that this version reads the book.

    Raises:
        LedgerError: If it does not.
        sqlite3.DatabaseError: If the file is no book at all.
    """
    row = db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if row is not None and row[0] != FORMAT:  # none yet: a crash came while the book was made
        raise LedgerError(f"{path} has format {row[0]}, this version reads {FORMAT}")
