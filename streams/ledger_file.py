"""The book's file: schema, opening, transactions, durability."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.errors import LedgerError

FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (
  number INTEGER PRIMARY KEY,      -- order of discovery
  id TEXT NOT NULL UNIQUE, url TEXT NOT NULL, source TEXT NOT NULL,
  size_bytes INTEGER NOT NULL, fingerprint TEXT NOT NULL, discovered_at REAL NOT NULL,
  state TEXT NOT NULL DEFAULT 'unread',
  pass INTEGER NOT NULL DEFAULT 0, -- 0 is first-time training, then replays
  num_samples INTEGER,             -- known once a reader reached the end
  claimed INTEGER NOT NULL DEFAULT 0,  -- in the current pass
  trained INTEGER NOT NULL DEFAULT 0,  -- in pass 0
  replayed INTEGER NOT NULL DEFAULT 0, -- in later passes
  rejected INTEGER NOT NULL DEFAULT 0, -- rows in rejects
  attempts INTEGER NOT NULL DEFAULT 0, -- leases begun and not ended in order
  worker TEXT, token INTEGER NOT NULL DEFAULT 0, expires_at REAL,
  fault TEXT,                      -- what is wrong with the tar, in words
  retired INTEGER NOT NULL DEFAULT 0,  -- never replayed: its bytes are gone
  version INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS shards_by_state ON shards (state, number);
CREATE INDEX IF NOT EXISTS shards_by_version ON shards (version);
CREATE TABLE IF NOT EXISTS claims (
  shard INTEGER NOT NULL, pass INTEGER NOT NULL, idx INTEGER NOT NULL,
  step INTEGER NOT NULL, rank INTEGER NOT NULL,
  PRIMARY KEY (shard, pass, idx)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claims_by_step ON claims (step);
CREATE TABLE IF NOT EXISTS rejects (
  shard INTEGER NOT NULL, idx INTEGER NOT NULL, pass INTEGER NOT NULL,
  reason TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (shard, idx)
) WITHOUT ROWID;
"""
SHARD_COLUMNS = (
    "number", "id", "url", "source", "size_bytes", "fingerprint", "discovered_at", "state", "pass",
    "num_samples", "claimed", "trained", "replayed", "rejected", "attempts", "fault", "retired",
)  # fmt: skip


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
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A process that dies loses nothing with NORMAL; power loss may lose the newest
            # transactions, and `flush` makes them durable before a checkpoint is published.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            found = self._meta("format", FORMAT)
            with self._transaction():
                self._set_meta("format", found)
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path} is not a readable ledger ({error}); move it away and rebuild it from the "
                "run's checkpoints with `online-swav ledger rebuild`"
            ) from error
        if found != FORMAT:
            raise LedgerError(f"{path} has format {found}, this version reads {FORMAT}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
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
        value = self._meta(name) + 1
        self._set_meta(name, value)
        return value

    def close(self) -> None:
        """Make everything durable and close the file."""
        with self._lock:
            self.flush()
            self._db.close()

    def flush(self) -> None:
        """Make every transaction so far survive a power loss (called before a checkpoint)."""
        with self._lock, self._explained():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def size_bytes(self) -> int:
        """Bytes of the book on disk."""
        parts = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())
