"""What a person may decide about shards and samples, as transactions of the book."""

from __future__ import annotations

from collections.abc import Iterable

from streams.ledger_rows import LedgerRows


class LedgerDecisions(LedgerRows):
    """Second tries, and what is never to be trained again."""

    def retry(self, shard_id: str) -> bool:
        """Offer a shard again that was quarantined or ruled out; False if it is neither."""
        with self._transaction():
            row = self._db.execute(
                "SELECT number, state = 'quarantined', claimed + rejected = num_samples "
                "FROM shards WHERE id = ? AND retired = 1", (shard_id,),
            ).fetchone()  # fmt: skip
            if row is None:
                return False
            number, quarantined, complete = row
            if quarantined:
                offer = "state = 'unread', "
            elif complete:  # it was ruled out after its pass: the next replay may have it
                offer = ""
            else:  # given up within a replay, whose single claims may be folded by now
                offer = "state = 'unread', pass = pass + 1, claimed = 0, "
            self._update(number, offer + "retired = 0, ruled_out = 0, attempts = 0, fault = NULL")
            return True

    def skip_shard(self, shard_id: str) -> bool:
        """Never train on a shard from now on; False if the book does not know it.

        What was trained stays trained. Images of it that are on their way are refused.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT number, state FROM shards WHERE id = ?", (shard_id,)
            ).fetchone()
            if row is None:
                return False
            number, state = row
            if state in ("unread", "leased", "delivered"):
                self._quarantine(number, "ruled out by a person")
            self._update(number, "retired = 1, ruled_out = 1")
            return True

    def skip_samples(self, places: Iterable[tuple[int, int]]) -> int:
        """Never train on single samples again; how many of them are newly ruled out.

        Args:
            places: Pairs of shard number and sample index.
        """
        added = 0
        with self._transaction():
            version = self._version()
            for number, index in places:
                added += self._db.execute(
                    "INSERT OR IGNORE INTO skips VALUES (?, ?, ?)", (number, index, version)
                ).rowcount
            held = self._db.execute(
                "SELECT number FROM shards WHERE worker IS NOT NULL AND number IN "
                "(SELECT shard FROM skips WHERE version = ?)", (version,),
            ).fetchall()  # fmt: skip
            for (number,) in held:  # its reader begins again, and passes over them
                self._take_back(number, blame=False)
        return added

    def release_source(self, source: str) -> bool:
        """End the pause of a source, and forget its past failures; whether it was paused."""
        with self._transaction():
            return self._budgets.release(source)
