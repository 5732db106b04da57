"""What the book says: totals per source, and whether its invariants hold. Read-only SQL."""

from __future__ import annotations

import sqlite3

from streams.budgets import budgets_of
from streams.config import BudgetConfig
from streams.counts import SHARD_STATES, SourceCounts
from streams.shard import DROP_REASONS


def count_sources(
    db: sqlite3.Connection, committed_step: int, budget: BudgetConfig | None = None
) -> dict[str, SourceCounts]:
    """Totals per source; claims above `committed_step` are uncommitted."""
    budgets = budgets_of(db, budget or BudgetConfig())
    columns = ("known", "trained", "replayed", "unread_bytes", "last_discovered_at",
               "newest_trained_at")  # fmt: skip
    totals = db.execute(
        f"SELECT source, {', '.join((*columns, *SHARD_STATES))} FROM source_totals ORDER BY source"
    ).fetchall()
    dropped: dict[str, dict[str, int]] = {}
    for source, reason, number in db.execute("SELECT source, reason, dropped FROM drop_totals"):
        dropped.setdefault(source, dict.fromkeys(DROP_REASONS, 0))[reason] = number
    oldest = {
        source: db.execute(
            "SELECT discovered_at FROM shards WHERE source = ? AND state = 'unread' AND pass = 0 "
            "ORDER BY number LIMIT 1", (source,),
        ).fetchone()
        for source, *_ in totals
    }  # fmt: skip
    uncommitted = dict(
        db.execute(
            "SELECT s.source, sum(c.claims) FROM (SELECT shard, count(*) AS claims FROM claims "
            "WHERE step > ? GROUP BY shard) c JOIN shards s ON s.number = c.shard "
            "GROUP BY s.source", (committed_step,),
        )
    )  # fmt: skip
    return {
        source: SourceCounts(
            shards=dict(zip(SHARD_STATES, states, strict=True)),
            samples_known=known, trained=trained, replayed=replayed,
            uncommitted=uncommitted.get(source, 0),
            dropped=dropped.get(source, dict.fromkeys(DROP_REASONS, 0)),
            unread_bytes=unread_bytes,
            oldest_unread_at=(oldest[source] or (None,))[0],
            last_discovered_at=last, newest_trained_at=newest,
            bad_ratio=budgets[source].share, budget_samples=int(budgets[source].size),
            paused=budgets[source].cause,
        )
        for source, known, trained, replayed, unread_bytes, last, newest, *states in totals
    }  # fmt: skip


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


_TOTALS = (
    ("source_totals", "source, unread, leased, delivered, done, quarantined, ruled_out, sized, "
     "known, trained, replayed, unread_bytes",
     "SELECT source, sum(state = 'unread'), sum(state = 'leased'), "
     "sum(state = 'delivered'), sum(state = 'done'), sum(state = 'quarantined'), "
     "sum(ruled_out AND state = 'quarantined'), "
     "count(num_samples), coalesce(sum(num_samples), 0), sum(trained), sum(replayed), "
     "sum(CASE WHEN state = 'unread' AND pass = 0 THEN size_bytes ELSE 0 END) "
     "FROM shards GROUP BY source"),
    ("drop_totals", "source, reason, dropped", "SELECT s.source, r.reason, count(*) FROM rejects r "
     "JOIN shards s ON s.number = r.shard WHERE r.pass = 0 GROUP BY s.source, r.reason"),
)  # fmt: skip


def broken_invariants(db: sqlite3.Connection) -> list[str]:
    """What is broken, in words with up to three places each; empty when the book is sound."""
    broken = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
    for meaning, query in _CHECKS:
        rows = [str(row[0]) for row in db.execute(query)]
        if rows:
            shown = ", ".join(rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
            broken.append(f"{meaning}: {shown}")
    for table, columns, query in _TOTALS:
        kept = f"SELECT {columns} FROM {table}"
        broken += [
            f"{table} differs from the rows of source {row[0]}: they say {row[1:]}"
            for row in db.execute(f"SELECT * FROM ({query} EXCEPT {kept})")
        ]
    return broken
