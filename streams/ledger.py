"""The book: the truth about every image, in one SQLite file with one writer.

A sample is *claimed* by the step that is about to train it. A claim counts once the checkpoint that
holds its gradient is published; `begin(step)` forgets every claim above the step of the checkpoint
that a run resumes from, so that the book forgets exactly what the weights forgot.

Fencing: every lease has a token that grows, every start of the learner a generation that grows.
Whatever arrives under an old one is refused. Calls are idempotent under retries.

Space: a claim is one row of four integers until its shard's pass is complete and older than the
oldest checkpoint kept; then the rows fold into counters of the shard (`fold`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from streams.budgets import closed_sources
from streams.counts import SourceCounts
from streams.errors import LedgerError
from streams.ledger_checkpoints import LedgerCheckpoints
from streams.ledger_reports import broken_invariants, count_sources
from streams.shard import DROP_REASONS, Lease, Origin, Shard, to_ranges

ADDED_TOGETHER = 500


class Ledger(LedgerCheckpoints):
    """One writer of one book. Thread-safe; a method is one transaction unless it says otherwise.

    Arguments as of `LedgerRows`.
    """

    @property
    def generation(self) -> int:
        """Grows with every `begin`."""
        with self._lock:
            return self._meta("generation")

    # -- discovery -----------------------------------------------------------------------------

    def add(self, shards: Iterable[Shard]) -> int:
        """Enter shards that are not in the book yet; their number.

        Many shards are several transactions, so that claims need not wait for all of them.
        """
        added = 0
        rest = iter(shards)
        while chunk := list(islice(rest, ADDED_TOGETHER)):
            rows = [
                (shard.id, shard.url, shard.source, shard.size_bytes, shard.fingerprint,
                 shard.discovered_at)
                for shard in chunk
            ]  # fmt: skip
            with self._transaction():
                version = self._meta("version") + 1
                new = self._db.executemany(
                    "INSERT INTO shards (id, url, source, size_bytes, fingerprint, discovered_at, "
                    f"version) VALUES (?, ?, ?, ?, ?, ?, {version}) ON CONFLICT (id) DO NOTHING",
                    rows,
                ).rowcount
                if new:  # nothing is written when all are known
                    self._set_meta("version", version)
                added += new
        return added

    # -- readers -------------------------------------------------------------------------------

    def lease(self, worker: str, *, generation: int) -> Lease | None:
        """The oldest unread shard of a source within its budget, or None.

        The attempt is on disk before the reader starts.

        A shard whose last reader died is leased alone: if it kills again, no innocent
        shard is blamed with it.

        Raises:
            LeaseLost: If `generation` is over.
        """
        with self._transaction():
            self._check_generation(generation)
            self._expire()
            row = self._oldest_unread(closed=self._budgets.review())
            if row is None:
                return None
            pass_number, number, attempts, shard_id, *identity = row
            held, most_attempts = self._db.execute(
                "SELECT count(*), coalesce(max(attempts), 0) FROM shards "
                "WHERE worker = ? AND state = 'leased'", (worker,),
            ).fetchone()  # fmt: skip
            if held and (attempts > 0 or most_attempts > 1):
                return None
            token = self._next("token")
            expires_at = self._clock() + self._lease_s
            self._update(
                number, "state = 'leased', worker = :worker, token = :token, "
                "expires_at = :expires_at, attempts = attempts + 1",
                worker=worker, token=token, expires_at=expires_at,
            )  # fmt: skip
            self._budgets.leased(identity[1])
            self._reject_skipped(number, pass_number)
            known = self._db.execute(
                "SELECT idx FROM claims WHERE shard = ? AND pass = ? "
                "UNION SELECT idx FROM rejects WHERE shard = ?",
                (number, pass_number, number),
            )
            skip = to_ranges(index for (index,) in known)
        names = ("url", "source", "size_bytes", "fingerprint", "discovered_at")
        shard = Shard(**dict(zip(names, identity, strict=True)))
        if shard.id != shard_id:
            raise LedgerError(f"the book's identity of {shard.url} is damaged; run ledger verify")
        return Lease(shard=shard, worker=worker, token=token, pass_number=pass_number,
                     expires_at=expires_at, skip=skip)  # fmt: skip

    def renew(self, worker: str, tokens: Iterable[int]) -> list[int]:
        """Extend the leases that `worker` holds under `tokens`; the tokens still alive.

        A delivered shard stays alive until all of its images are claimed.
        """
        alive = []
        with self._transaction():
            for token in tokens:
                cursor = self._db.execute(
                    "UPDATE shards SET expires_at = ? WHERE worker = ? AND token = ?",
                    (self._clock() + self._lease_s, worker, token),
                )
                if cursor.rowcount:
                    alive.append(token)
        return alive

    def finish(self, lease: Lease, *, num_samples: int, fault: str | None) -> None:
        """The reader reached the end of the tar and has delivered or rejected every sample.

        A shard that now holds other samples than an earlier reader found is quarantined: it changed
        while it was read.

        Raises:
            LeaseLost: If the lease is over.
        """
        with self._transaction():
            number = self._check_lease(lease)
            before, *known = self._db.execute(
                "SELECT num_samples, coalesce("
                "(SELECT max(idx) FROM claims c WHERE c.shard = number AND c.pass = s.pass), -1), "
                "coalesce((SELECT max(idx) FROM rejects WHERE shard = number), -1) "
                "FROM shards s WHERE number = ?", (number,),
            ).fetchone()  # fmt: skip
            least = max(known) + 1 if before is None else before
            if num_samples < least or before not in (None, num_samples):
                self._quarantine(
                    number, f"ends after {num_samples} samples, where an earlier reader saw {least}"
                    + (f"; {fault}" if fault else ""),
                )  # fmt: skip
                return
            self._update(
                number, "state = 'delivered', attempts = 0, num_samples = :num, fault = :fault",
                num=num_samples, fault=fault,
            )  # fmt: skip
            self._complete(number)

    def reject(self, lease: Lease, *, index: int, reason: str) -> bool:
        """Record that a sample cannot be used; whether this is news.

        Raises:
            LeaseLost: If the lease is over.
            ValueError: If `reason` is none of `DROP_REASONS`.
        """
        if reason not in DROP_REASONS:
            raise ValueError(f"unknown reason {reason!r}; the reasons are {DROP_REASONS}")
        with self._transaction():
            number = self._check_lease(lease)
            cursor = self._db.execute(
                "INSERT OR IGNORE INTO rejects VALUES (?, ?, ?, ?, ?)",
                (number, index, lease.pass_number, reason, self._version()),
            )
            if cursor.rowcount:
                self._update(number, "rejected = rejected + 1")
                self._complete(number)
            return bool(cursor.rowcount)

    def quarantine(self, lease: Lease, *, fault: str) -> None:
        """The shard cannot be read at all. A replay of it ends here; what was trained stays so.

        Raises:
            LeaseLost: If the lease is over.
        """
        with self._transaction():
            self._quarantine(self._check_lease(lease), fault)

    def release(self, worker: str, *, crashed: bool) -> int:
        """Take back every shard of `worker`; a crash leaves the attempts counted."""
        with self._transaction():
            rows = self._db.execute(
                "SELECT number FROM shards WHERE worker = ?", (worker,)
            ).fetchall()
            for (number,) in rows:
                self._take_back(number, blame=crashed)
        return len(rows)

    # -- learners ------------------------------------------------------------------------------

    def begin(self, step: int) -> int:
        """Start a generation on weights of `step`: roll back later claims, end all leases.

        Raises:
            LedgerError: If claims above `step` were already folded: the checkpoint is too old.
        """
        with self._transaction():
            folded = self._meta("folded_step", -1)
            if step < folded:
                raise LedgerError(
                    f"cannot roll back to step {step}: claims up to step {folded} are folded; "
                    "resume from a newer checkpoint, or rebuild the book from the checkpoints"
                )
            self._roll_back(step)
            for (number,) in self._db.execute(
                "SELECT number FROM shards WHERE worker IS NOT NULL"
            ).fetchall():
                self._take_back(number, blame=False)
            self._budgets.begin()
            return self._next("generation")

    def claim(
        self, origins: Sequence[Origin], *, generation: int, rank: int, step: int
    ) -> list[bool]:
        """Claim images for the step about to be made; which of them may be trained.

        Refused: a sample claimed before in its pass, a token that is not its shard's current one.
        Asking again with the same generation, rank and step gives the same answer.

        Raises:
            LeaseLost: If `generation` is over.
        """
        accepted = [False] * len(origins)
        by_shard: dict[str, list[int]] = {}
        for position, origin in enumerate(origins):
            by_shard.setdefault(origin.sample.shard_id, []).append(position)
        with self._transaction():
            self._check_generation(generation)
            for shard_id, positions in by_shard.items():
                row = self._db.execute(
                    "SELECT number, token, pass, state = 'done' FROM shards WHERE id = ?",
                    (shard_id,),
                ).fetchone()
                if row is None:
                    continue
                number, token, pass_number, complete = row
                firsts: dict[int, int] = {}  # of an image that is there twice, one is trained
                for position in positions:
                    origin = origins[position]
                    if (origin.token, origin.pass_number) == (token, pass_number):
                        firsts.setdefault(origin.sample.index, position)
                gained = 0
                # Nothing is left to claim in a complete pass; its rows may be folded by now.
                if firsts and not complete:
                    gained = self._db.executemany(
                        "INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?)",
                        [(number, pass_number, index, step, rank) for index in firsts],
                    ).rowcount
                ours: Iterable[int] = firsts
                if gained < len(firsts):  # some are another step's, or this is a retry of the call
                    ours = firsts.keys() & {
                        index for (index,) in self._db.execute(
                            "SELECT idx FROM claims WHERE shard = ? AND pass = ? AND step = ? "
                            "AND rank = ?", (number, pass_number, step, rank))
                    }  # fmt: skip
                for index in ours:
                    accepted[firsts[index]] = True
                if gained:
                    self._update(
                        number, "claimed = claimed + :count, "
                        "trained = trained + CASE WHEN pass = 0 THEN :count ELSE 0 END, "
                        "replayed = replayed + CASE WHEN pass > 0 THEN :count ELSE 0 END",
                        count=gained,
                    )  # fmt: skip
                    self._complete(number)
        return accepted

    def replay(self) -> int:
        """Offer every finished shard again, as its next pass; their number."""
        with self._transaction():
            rows = self._db.execute(
                "SELECT number FROM shards WHERE state = 'done' AND retired = 0 "
                "AND num_samples > rejected"
            ).fetchall()
            for (number,) in rows:
                self._update(number, "state = 'unread', pass = pass + 1, claimed = 0")
        return len(rows)

    # -- reading the book ----------------------------------------------------------------------

    def pending(self) -> int:
        """Shards whose samples do not all have a known fate yet; not what waits in a pause."""
        with self._lock:
            closed = closed_sources(self._db)
            rows = self._db.execute(
                "SELECT source, unread, leased + delivered FROM source_totals"
            ).fetchall()
        return sum(begun + (0 if source in closed else unread) for source, unread, begun in rows)

    def counts(self, *, committed_step: int = -1) -> dict[str, SourceCounts]:
        """Totals per source; `committed_step` is the newest checkpoint's."""
        with self._lock:
            return count_sources(self._db, committed_step, self._budget)

    def verify(self) -> list[str]:
        """Check the invariants; what is broken, in words, and nothing when all is well."""
        with self._lock:
            return broken_invariants(self._db)
