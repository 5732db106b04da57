"""The book's tables. Every hot query has an index that does not grow with history.

`source_totals` and `drop_totals` are kept by triggers in the same transaction, so that a report
costs the same after ten million shards as after ten.
"""

from __future__ import annotations

import sqlite3

from streams.counts import SHARD_STATES

FORMAT = 3
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
  retired INTEGER NOT NULL DEFAULT 0,  -- never replayed: unreadable, or ruled out
  ruled_out INTEGER NOT NULL DEFAULT 0,  -- by a person's decision
  version INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS claims (
  shard INTEGER NOT NULL, pass INTEGER NOT NULL, idx INTEGER NOT NULL,
  step INTEGER NOT NULL, rank INTEGER NOT NULL,
  PRIMARY KEY (shard, pass, idx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejects (
  shard INTEGER NOT NULL, idx INTEGER NOT NULL, pass INTEGER NOT NULL,
  reason TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (shard, idx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS skips (  -- never to be trained again, by a person's decision
  shard INTEGER NOT NULL, idx INTEGER NOT NULL, version INTEGER NOT NULL,
  PRIMARY KEY (shard, idx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budgets (  -- failure budgets: where the window of a source begins
  source TEXT PRIMARY KEY, trained REAL NOT NULL, dropped REAL NOT NULL, unreadable REAL NOT NULL,
  paused_at REAL,                  -- unix seconds of the pause, or of the last trial in it
  trials INTEGER NOT NULL DEFAULT 0,   -- shards that may be leased during the pause
  cause TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source_totals (
  source TEXT PRIMARY KEY,
  unread INTEGER NOT NULL DEFAULT 0, leased INTEGER NOT NULL DEFAULT 0,
  delivered INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0,
  quarantined INTEGER NOT NULL DEFAULT 0,
  ruled_out INTEGER NOT NULL DEFAULT 0,    -- of the quarantined ones
  sized INTEGER NOT NULL DEFAULT 0,    -- shards whose num_samples is known
  known INTEGER NOT NULL DEFAULT 0,    -- sum of num_samples
  trained INTEGER NOT NULL DEFAULT 0, replayed INTEGER NOT NULL DEFAULT 0,
  unread_bytes INTEGER NOT NULL DEFAULT 0,  -- of shards never read before
  last_discovered_at REAL, newest_trained_at REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS drop_totals (
  source TEXT NOT NULL, reason TEXT NOT NULL, dropped INTEGER NOT NULL,
  PRIMARY KEY (source, reason)
) WITHOUT ROWID;
"""
SHARD_COLUMNS = (
    "number", "id", "url", "source", "size_bytes", "fingerprint", "discovered_at", "state", "pass",
    "num_samples", "claimed", "trained", "replayed", "rejected", "attempts", "fault", "retired",
    "ruled_out",
)  # fmt: skip
_STATE_CHANGES = ", ".join(
    f"{state} = {state} + (new.state = '{state}') - (old.state = '{state}')"
    for state in SHARD_STATES
)
_STATE_SUMS = ", ".join(f"sum(state = '{state}')" for state in SHARD_STATES)
INDEXES_AND_TRIGGERS = f"""
CREATE INDEX IF NOT EXISTS shards_by_version ON shards (version);
CREATE INDEX IF NOT EXISTS shards_unread ON shards (source, pass, number)
  WHERE state = 'unread';
CREATE INDEX IF NOT EXISTS shards_held ON shards (worker) WHERE worker IS NOT NULL;
CREATE INDEX IF NOT EXISTS shards_with_fault ON shards (number)
  WHERE fault IS NOT NULL OR ruled_out = 1;
CREATE INDEX IF NOT EXISTS skips_by_version ON skips (version);
CREATE INDEX IF NOT EXISTS shards_expiring ON shards (expires_at) WHERE worker IS NOT NULL;
CREATE INDEX IF NOT EXISTS claims_by_step ON claims (step, rank); -- holds all that a delta needs
CREATE TRIGGER IF NOT EXISTS shard_added AFTER INSERT ON shards BEGIN
  INSERT OR IGNORE INTO source_totals (source) VALUES (new.source);
  UPDATE source_totals SET unread = unread + 1, unread_bytes = unread_bytes + new.size_bytes,
    last_discovered_at = max(coalesce(last_discovered_at, new.discovered_at), new.discovered_at)
    WHERE source = new.source;
END;
CREATE TRIGGER IF NOT EXISTS shard_changed
AFTER UPDATE OF state, num_samples, trained, replayed, ruled_out ON shards BEGIN
  UPDATE source_totals SET {_STATE_CHANGES},
    ruled_out = ruled_out + (new.ruled_out AND new.state = 'quarantined')
      - (old.ruled_out AND old.state = 'quarantined'),
    sized = sized + (new.num_samples IS NOT NULL) - (old.num_samples IS NOT NULL),
    known = known + coalesce(new.num_samples, 0) - coalesce(old.num_samples, 0),
    trained = trained + new.trained - old.trained,
    replayed = replayed + new.replayed - old.replayed,
    unread_bytes = unread_bytes + new.size_bytes * ((new.state = 'unread' AND new.pass = 0)
      - (old.state = 'unread' AND old.pass = 0)),
    newest_trained_at = CASE WHEN new.trained > 0 THEN
      max(coalesce(newest_trained_at, new.discovered_at), new.discovered_at)
      ELSE newest_trained_at END
    WHERE source = new.source;
END;
CREATE TRIGGER IF NOT EXISTS sample_rejected AFTER INSERT ON rejects WHEN new.pass = 0 BEGIN
  INSERT INTO drop_totals VALUES
    ((SELECT source FROM shards WHERE number = new.shard), new.reason, 1)
    ON CONFLICT DO UPDATE SET dropped = dropped + 1;
END;
"""
TRIGGERS = ("shard_added", "shard_changed", "sample_rejected")


def sum_totals(db: sqlite3.Connection) -> None:
    """Make the totals anew from the rows."""
    db.execute("DELETE FROM source_totals")
    db.execute(
        "INSERT INTO source_totals SELECT source, " + _STATE_SUMS + ", "
        "sum(ruled_out AND state = 'quarantined'), count(num_samples), "
        "coalesce(sum(num_samples), 0), sum(trained), sum(replayed), "
        "sum(CASE WHEN state = 'unread' AND pass = 0 THEN size_bytes ELSE 0 END), "
        "max(discovered_at), max(CASE WHEN trained > 0 THEN discovered_at END) "
        "FROM shards GROUP BY source"
    )
    db.execute("DELETE FROM drop_totals")
    db.execute(
        "INSERT INTO drop_totals SELECT s.source, r.reason, count(*) FROM rejects r "
        "JOIN shards s ON s.number = r.shard WHERE r.pass = 0 GROUP BY s.source, r.reason"
    )
