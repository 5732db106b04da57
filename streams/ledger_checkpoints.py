"""The book's part of a checkpoint: what is new in it, what may be folded, and how it is rebuilt."""

from __future__ import annotations

from collections.abc import Sequence

from streams.ledger_decisions import LedgerDecisions
from streams.ledger_delta import ClaimsOfBatch, Delta
from streams.ledger_schema import INDEXES_AND_TRIGGERS, SHARD_COLUMNS, TRIGGERS, sum_totals


class LedgerCheckpoints(LedgerDecisions):
    """Deltas out, deltas in, and the claims that no checkpoint needs any more."""

    def delta(self, *, step: int, since_step: int, since_version: int) -> Delta:
        """What changed since the checkpoint before (`since_step`, `since_version`)."""
        with self._lock:
            columns = ", ".join(SHARD_COLUMNS)
            return Delta(
                step=step,
                parent_step=since_step,
                version=self._meta("version"),
                shards=tuple(self._db.execute(
                    f"SELECT {columns} FROM shards WHERE version > ?", (since_version,))),
                claims=self._claims(since_step, step),
                ahead=self._claims(step, None),
                rejects=tuple(self._db.execute(
                    "SELECT shard, idx, pass, reason FROM rejects WHERE version > ?",
                    (since_version,))),
                skips=tuple(self._db.execute(
                    "SELECT shard, idx FROM skips WHERE version > ?", (since_version,))),
            )  # fmt: skip

    def _claims(self, above: int, upto: int | None) -> tuple[ClaimsOfBatch, ...]:
        return tuple(
            (*batch, tuple(map(int, indexes.split(","))))
            for *batch, indexes in self._db.execute(  # in the order of the index
                "SELECT step, rank, shard, pass, group_concat(idx) FROM claims "
                "WHERE step > ? AND step <= coalesce(?, step) GROUP BY step, rank, shard, pass",
                (above, upto))
        )  # fmt: skip

    def apply(self, deltas: Sequence[Delta], *, folded_step: int) -> None:
        """Rebuild: enter the deltas of checkpoints, oldest first, into an empty or older book.

        Claims that `fold(folded_step)` would forget are not entered one by one. The book is then of
        the last checkpoint's step: what was claimed ahead of it is undone.
        """
        numbers, passes = SHARD_COLUMNS.index("number"), SHARD_COLUMNS.index("pass")
        states = SHARD_COLUMNS.index("state")
        shards = {row[numbers]: (*row, delta.version) for delta in deltas for row in delta.shards}
        last_steps: dict[tuple[int, int], int] = {}
        for delta in deltas:
            for step, _, number, pass_number, _ in delta.claims:
                last_steps[number, pass_number] = step

        def folds(number: int, pass_number: int) -> bool:
            row = shards[number]
            complete = row[states] == "done" or row[passes] > pass_number
            return complete and last_steps[number, pass_number] <= folded_step

        with self._transaction():
            for trigger in TRIGGERS:
                self._db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            marks = ", ".join("?" * (len(SHARD_COLUMNS) + 1))
            self._db.executemany(
                f"INSERT OR REPLACE INTO shards ({', '.join(SHARD_COLUMNS)}, version) "
                f"VALUES ({marks})", shards.values(),
            )  # fmt: skip
            for delta in deltas:
                self._db.executemany(
                    "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                    ((number, pass_number, index, step, rank)
                     for step, rank, number, pass_number, indexes in delta.claims
                     if not folds(number, pass_number) for index in indexes),
                )  # fmt: skip
                self._db.executemany(
                    "INSERT OR REPLACE INTO rejects VALUES (?, ?, ?, ?, ?)",
                    [(*row, delta.version) for row in delta.rejects],
                )
                self._db.executemany("INSERT OR REPLACE INTO skips VALUES (?, ?, ?)",
                                     [(*row, delta.version) for row in delta.skips])  # fmt: skip
                self._set_meta("version", delta.version)
            for delta in deltas[-1:]:
                self._db.executemany(
                    "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                    ((number, pass_number, index, step, rank)
                     for step, rank, number, pass_number, indexes in delta.ahead
                     for index in indexes),
                )  # fmt: skip
                self._roll_back(delta.step)
            self._db.execute(
                "UPDATE shards SET state = 'unread' WHERE state IN ('leased', 'delivered')"
            )
            sum_totals(self._db)
        self._db.executescript(INDEXES_AND_TRIGGERS)
        self.fold(folded_step)

    def fold(self, step: int) -> int:
        """Forget the single claims of complete passes up to `step`; the rows freed.

        `step` is that of the oldest checkpoint kept: nothing older can be resumed from. Every shard
        is a transaction of its own, so that claims need not wait for all of them; what a crash
        leaves over is folded the next time.
        """
        with self._transaction():
            self._set_meta("folded_step", max(step, self._meta("folded_step", -1)))
            # One seek per pass of a shard, however many claims it has.
            passes = self._db.execute(
                "WITH RECURSIVE passes (shard, pass) AS ("
                "SELECT * FROM (SELECT shard, pass FROM claims ORDER BY shard, pass LIMIT 1) "
                "UNION ALL SELECT next.shard, next.pass FROM passes p JOIN claims next ON "
                "(next.shard, next.pass, next.idx) = (SELECT shard, pass, idx FROM claims "
                "WHERE (shard, pass) > (p.shard, p.pass) ORDER BY shard, pass, idx LIMIT 1)) "
                "SELECT p.shard, p.pass FROM passes p JOIN shards s ON s.number = p.shard "
                "WHERE s.state = 'done' OR s.pass > p.pass"
            ).fetchall()
        freed = 0
        for number, pass_number in passes:
            with self._transaction():
                freed += self._db.execute(
                    "DELETE FROM claims WHERE shard = :shard AND pass = :pass AND :step >= "
                    "(SELECT max(step) FROM claims WHERE shard = :shard AND pass = :pass) "
                    "AND EXISTS (SELECT 1 FROM shards WHERE number = :shard "
                    "AND (state = 'done' OR pass > :pass))",
                    {"shard": number, "pass": pass_number, "step": step},
                ).rowcount
        return freed
