"""What happens to one shard's rows within a transaction. `Ledger` is made of these moves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from streams.budgets import Budgets
from streams.config import BudgetConfig
from streams.errors import LeaseLost
from streams.ledger_file import LedgerFile
from streams.shard import Lease

logger = logging.getLogger(__name__)


class LedgerRows(LedgerFile):
    """The moves; each is called inside a transaction of its caller.

    Args:
        path: The SQLite file; created when missing.
        lease_s: Seconds after which a silent worker's shards go to another one.
        max_attempts: Readers that a shard may kill before it is quarantined.
        budget: How much of a source may be bad before it is paused.
        clock: Monotonic seconds, for leases.
        wall_clock: Unix seconds, for pauses.

    Raises:
        LedgerError: If the file is no book of this format, or is damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        lease_s: float = 60.0,
        max_attempts: int = 3,
        budget: BudgetConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path)
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._clock = clock
        self._budget = budget or BudgetConfig()
        self._budgets = Budgets(self._db, self._budget, wall_clock)
        # Deadlines are on a clock that restarts with the machine: leases of an earlier process end.
        with self._transaction():
            self._db.execute("UPDATE shards SET expires_at = ? WHERE worker IS NOT NULL",
                             (self._clock() + lease_s,))  # fmt: skip

    def _update(self, number: int, assignments: str, **values: object) -> None:
        self._db.execute(
            f"UPDATE shards SET {assignments}, version = :version WHERE number = :number",
            {**values, "version": self._version(), "number": number},
        )

    def _check_generation(self, generation: int) -> None:
        current = self._meta("generation")
        if generation != current:
            raise LeaseLost(f"generation {generation} is over, the run is in {current}")

    def _check_lease(self, lease: Lease) -> int:
        row = self._db.execute(
            "SELECT number, token, worker FROM shards WHERE id = ?", (lease.shard.id,)
        ).fetchone()
        if row is None or row[1] != lease.token or row[2] != lease.worker:
            raise LeaseLost(f"{lease.worker} no longer holds {lease.shard.url}")
        return int(row[0])

    def _complete(self, number: int) -> None:
        """Every sample of the pass has a fate: the shard is done."""
        self._db.execute(
            "UPDATE shards SET state = 'done', worker = NULL, expires_at = NULL, attempts = 0 "
            "WHERE number = ? AND state = 'delivered' AND claimed + rejected = num_samples",
            (number,),
        )

    def _take_back(self, number: int, *, blame: bool) -> None:
        """End a lease. Its token stays the newest, and a new lease gets a newer one."""
        attempts = "attempts" if blame else "0"
        self._update(
            number, "state = 'unread', worker = NULL, expires_at = NULL, token = :token, "
            f"attempts = {attempts}", token=self._next("token"),
        )  # fmt: skip
        self._db.execute(
            "UPDATE shards SET state = 'done' "
            "WHERE number = ? AND claimed + rejected = num_samples", (number,),
        )  # fmt: skip
        row = self._db.execute(
            "SELECT attempts, state FROM shards WHERE number = ?", (number,)
        ).fetchone()
        if row[1] == "unread" and row[0] >= self._max_attempts:
            self._quarantine(number, f"killed {row[0]} readers")

    def _oldest_unread(self, *, closed: Collection[str]) -> tuple[Any, ...] | None:
        """Source by source, since the index begins with it: no backlog is scanned."""
        firsts = [
            self._db.execute(
                "SELECT pass, number, attempts, id, url, source, size_bytes, fingerprint, "
                "discovered_at FROM shards WHERE source = ? AND state = 'unread' "
                "ORDER BY pass, number LIMIT 1", (source,),
            ).fetchone()
            for (source,) in self._db.execute("SELECT source FROM source_totals").fetchall()
            if source not in closed
        ]  # fmt: skip
        return min((row for row in firsts if row is not None), default=None)

    def _reject_skipped(self, number: int, pass_number: int) -> None:
        """Give the fate `skipped` to what a person has ruled out and this pass has not claimed."""
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO rejects SELECT k.shard, k.idx, :pass, 'skipped', :version "
            "FROM skips k WHERE k.shard = :number AND NOT EXISTS (SELECT 1 FROM claims c "
            "WHERE c.shard = k.shard AND c.pass = :pass AND c.idx = k.idx)",
            {"number": number, "pass": pass_number, "version": self._version()},
        )
        if cursor.rowcount:
            self._update(number, "rejected = rejected + :count", count=cursor.rowcount)

    def _expire(self) -> None:
        rows = self._db.execute(
            "SELECT number, state FROM shards WHERE worker IS NOT NULL AND expires_at < ?",
            (self._clock(),),
        ).fetchall()
        for number, state in rows:
            self._take_back(number, blame=state == "leased")

    def _quarantine(self, number: int, fault: str) -> None:
        (url,) = self._db.execute("SELECT url FROM shards WHERE number = ?", (number,)).fetchone()
        logger.warning("shard_quarantined shard=%s fault=%r", url, fault)
        self._update(
            number, "state = CASE WHEN pass = 0 THEN 'quarantined' ELSE 'done' END, retired = 1, "
            "worker = NULL, expires_at = NULL, token = :token, fault = :fault",
            token=self._next("token"), fault=fault,
        )  # fmt: skip

    def _roll_back(self, step: int) -> None:
        deleted: dict[int, dict[int, int]] = {}
        for number, pass_number, count in self._db.execute(
            "SELECT shard, pass, count(*) FROM claims WHERE step > ? GROUP BY shard, pass", (step,)
        ).fetchall():
            deleted.setdefault(number, {})[pass_number] = count
        self._db.execute("DELETE FROM claims WHERE step > ?", (step,))
        for number, by_pass in deleted.items():
            current, claimed, num_samples, rejected, state, retired = self._db.execute(
                "SELECT pass, claimed, num_samples, rejected, state, retired FROM shards "
                "WHERE number = ?", (number,),
            ).fetchone()  # fmt: skip
            # A later pass begins only after the one before is complete, hence all claims of the
            # passes after the earliest one touched are gone too.
            earliest = min(by_pass)
            forgotten, moved = self._move_rejects(number, earliest)
            before = claimed if earliest == current else num_samples - rejected + forgotten + moved
            state = "unread"
            if retired:
                state = "quarantined" if earliest == 0 else "done"
            self._update(
                number, "pass = :pass, claimed = :claimed, trained = trained - :trained, "
                "replayed = replayed - :replayed, rejected = rejected - :forgotten, state = :state",
                **{"pass": earliest}, claimed=before - by_pass[earliest], trained=by_pass.get(0, 0),
                replayed=sum(count for p, count in by_pass.items() if p > 0), forgotten=forgotten,
                state=state,
            )  # fmt: skip

    def _move_rejects(self, number: int, earliest: int) -> tuple[int, int]:
        """Rejections of passes that are undone: how many were forgotten, and how many kept.

        A sample that the pass `earliest` has still trained has its fate there. One whose claim is
        undone has none but this rejection, which is of `earliest` then.
        """
        rows = self._db.execute(
            "SELECT idx, reason, EXISTS (SELECT 1 FROM claims c WHERE c.shard = r.shard "
            "AND c.pass = :earliest AND c.idx = r.idx) FROM rejects r "
            "WHERE shard = :number AND pass > :earliest", {"number": number, "earliest": earliest},
        ).fetchall()  # fmt: skip
        for index, reason, still_trained in rows:
            place = (number, index)
            self._db.execute("DELETE FROM rejects WHERE shard = ? AND idx = ?", place)
            if not still_trained:
                self._db.execute("INSERT INTO rejects VALUES (?, ?, ?, ?, ?)",
                                 (*place, earliest, reason, self._version()))  # fmt: skip
        forgotten = sum(still_trained for _, _, still_trained in rows)
        return forgotten, len(rows) - forgotten
