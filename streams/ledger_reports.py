"""What the book says: totals per source, and whether its invariants hold. Read-only SQL."""

from __future__ import annotations

import sqlite3

from streams.counts import SHARD_STATES, SourceCounts
from streams.shard import DROP_REASONS


def count_sources(db: sqlite3.Connection, committed_step: int) -> dict[str, SourceCounts]:
    """Totals per source; claims above `committed_step` are uncommitted."""
    sources = [row[0] for row in db.execute("SELECT DISTINCT source FROM shards ORDER BY source")]
    return {source: _count(db, source, committed_step) for source in sources}


def _count(db: sqlite3.Connection, source: str, committed_step: int) -> SourceCounts:
    states = dict.fromkeys(SHARD_STATES, 0)
    states.update(
        db.execute("SELECT state, count(*) FROM shards WHERE source = ? GROUP BY state", (source,))
    )
    known, trained, replayed, last, newest = db.execute(
        "SELECT coalesce(sum(num_samples), 0), sum(trained), sum(replayed), max(discovered_at), "
        "max(CASE WHEN trained > 0 THEN discovered_at END) FROM shards WHERE source = ?",
        (source,),
    ).fetchone()
    unread_bytes, oldest = db.execute(
        "SELECT coalesce(sum(size_bytes), 0), min(discovered_at) FROM shards "
        "WHERE source = ? AND state = 'unread' AND pass = 0",
        (source,),
    ).fetchone()
    (uncommitted,) = db.execute(
        "SELECT count(*) FROM claims c JOIN shards s ON s.number = c.shard "
        "WHERE c.step > ? AND s.source = ?",
        (committed_step, source),
    ).fetchone()
    dropped = dict.fromkeys(DROP_REASONS, 0)
    dropped.update(
        db.execute(
            "SELECT r.reason, count(*) FROM rejects r JOIN shards s ON s.number = r.shard "
            "WHERE s.source = ? AND r.pass = 0 GROUP BY r.reason",
            (source,),
        )
    )
    return SourceCounts(
        shards=states,
        samples_known=known,
        trained=trained,
        replayed=replayed,
        uncommitted=uncommitted,
        dropped=dropped,
        unread_bytes=unread_bytes,
        oldest_unread_at=oldest,
        last_discovered_at=last,
        newest_trained_at=newest,
    )


_CHECKS = (
    (
        "a sample is both claimed and rejected in one pass",
        "SELECT s.url || ' index ' || c.idx FROM claims c "
        "JOIN rejects r ON r.shard = c.shard AND r.idx = c.idx AND r.pass = c.pass "
        "JOIN shards s ON s.number = c.shard",
    ),
    (
        "a claim or a rejection lies beyond the end of its shard",
        "SELECT s.url || ' index ' || x.idx FROM "
        "(SELECT shard, idx FROM claims UNION ALL SELECT shard, idx FROM rejects) x "
        "JOIN shards s ON s.number = x.shard WHERE x.idx < 0 OR x.idx >= s.num_samples",
    ),
    (
        "a shard's count of rejected samples differs from its rows",
        "SELECT url FROM shards s WHERE rejected <> "
        "(SELECT count(*) FROM rejects WHERE shard = s.number)",
    ),
    (
        "a shard's count of trained samples differs from its claims",
        # Folded passes have no rows any more; what is left must still fit the counters.
        "SELECT url FROM shards s WHERE EXISTS (SELECT 1 FROM claims WHERE shard = s.number "
        "AND pass = 0) AND trained <> (SELECT count(*) FROM claims "
        "WHERE shard = s.number AND pass = 0)",
    ),
    (
        "a shard's count of claims in the current pass differs from its rows",
        "SELECT url FROM shards s WHERE state IN ('unread', 'leased', 'delivered') AND claimed <> "
        "(SELECT count(*) FROM claims c WHERE c.shard = s.number AND c.pass = s.pass)",
    ),
    (
        "a done shard has samples without a fate",
        "SELECT url FROM shards WHERE state = 'done' AND retired = 0 "
        "AND (num_samples IS NULL OR claimed + rejected <> num_samples)",
    ),
    (
        "a finished first pass does not add up to the shard's samples",
        "SELECT url FROM shards s WHERE (state = 'done' OR pass > 0) AND trained + "
        "(SELECT count(*) FROM rejects r WHERE r.shard = s.number AND r.pass = 0) "
        "<> coalesce(num_samples, -1)",
    ),
    (
        "a shard is in no known state, or has a worker in a state without one",
        "SELECT url FROM shards WHERE state NOT IN "
        f"{SHARD_STATES} OR (worker IS NOT NULL AND state NOT IN ('leased', 'delivered'))",
    ),
    (
        "a rejection has an unknown reason",
        f"SELECT reason FROM rejects WHERE reason NOT IN {DROP_REASONS}",
    ),
    (
        "a claim, or a rejection, belongs to no shard",
        "SELECT shard FROM (SELECT shard FROM claims UNION SELECT shard FROM rejects) "
        "WHERE shard NOT IN (SELECT number FROM shards)",
    ),
)


def broken_invariants(db: sqlite3.Connection) -> list[str]:
    """What is broken, in words with up to three places each; empty when the book is sound."""
    broken = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
    for meaning, query in _CHECKS:
        rows = [str(row[0]) for row in db.execute(query)]
        if rows:
            shown = ", ".join(rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
            broken.append(f"{meaning}: {shown}")
    return broken
