"""What a person decides about shards and samples: handed to the book, and kept on record.

    decisions/ID.json         waits for whoever owns the book: the run, or the next command
    decisions/applied.jsonl   what was decided, when, and what came of it

A command cannot write the book of a run that is going on somewhere in a cluster. It leaves a file,
and the ledger's owner applies it at its next listing. Applying twice changes nothing more.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streams.errors import StreamError
from streams.ledger import Ledger
from streams.shard import Shard

logger = logging.getLogger(__name__)


class Decisions:
    """The decisions of one run.

    Args:
        folder: Made when the first decision comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record = folder / "applied.jsonl"

    def retry_shards(self, shard_ids: list[str]) -> str:
        """Offer quarantined shards again. Returns the decision's id, as all of these do."""
        return self._submit("retry_shards", shards=shard_ids)

    def skip_shards(self, shard_ids: list[str]) -> str:
        """Never train on these shards from now on."""
        return self._submit("skip_shards", shards=shard_ids)

    def skip_samples(self, places: list[tuple[int, int]], *, why: str) -> str:
        """Never train on these samples again; pairs of shard number and index."""
        return self._submit("skip_samples", places=places, why=why)

    def add_shard(self, shard: Shard) -> str:
        """Offer one more shard."""
        return self._submit("add_shard", shard=asdict(shard))

    def release_source(self, source: str) -> str:
        """End the pause of a source."""
        return self._submit("release_source", source=source)

    def _submit(self, kind: str, **values: Any) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        decision_id = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        staging = self._folder / f".{decision_id}"
        with staging.open("w") as file:
            json.dump({"id": decision_id, "at": time.time(), "kind": kind, **values}, file)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(self._folder / f"{decision_id}.json")
        return decision_id

    def apply(self, ledger: Ledger) -> None:
        """Enter all waiting decisions into the book, oldest first.

        Raises:
            LedgerError: If the book cannot be written; what is left waits.
        """
        for path in sorted(self._folder.glob("*.json")):
            try:
                decision = json.loads(path.read_text())
                outcome = _enter(ledger, decision)
            except (ValueError, KeyError, TypeError) as error:
                decision = {"id": path.stem, "kind": "unknown"}
                outcome = f"refused: {path.name} is no decision of this version ({error!r})"
            # The long list of samples is in the book; the record is for people.
            short = {k: v for k, v in decision.items() if k != "places"}
            with self._record.open("a") as file:
                file.write(json.dumps({**short, "outcome": outcome}) + "\n")
            path.unlink()
            logger.info("decision_applied kind=%s outcome=%r", decision["kind"], outcome)

    def outcome(self, decision_id: str) -> str | None:
        """What came of a decision, in words; None while it waits."""
        for entry in self.record():
            if entry.get("id") == decision_id:
                return str(entry["outcome"])
        return None

    def record(self) -> list[dict[str, Any]]:
        """Everything that was decided and applied, oldest first."""
        if not self._record.exists():
            return []
        return [json.loads(line) for line in self._record.read_text().splitlines()]


def apply_all(decisions: Decisions, ledger: Ledger) -> None:
    """Apply while a run goes on: a book that cannot be written now is tried again later."""
    try:
        decisions.apply(ledger)
    except (StreamError, OSError) as error:
        logger.error("decisions_failed error=%r", str(error))


def _enter(ledger: Ledger, decision: dict[str, Any]) -> str:
    kind = decision["kind"]
    if kind == "retry_shards":
        done = [ledger.retry(shard_id) for shard_id in decision["shards"]]
        return f"{sum(done)} of {len(done)} shards are offered again"
    if kind == "skip_shards":
        done = [ledger.skip_shard(shard_id) for shard_id in decision["shards"]]
        return f"{sum(done)} of {len(done)} shards are ruled out"
    if kind == "skip_samples":
        places = [(int(number), int(index)) for number, index in decision["places"]]
        return f"{ledger.skip_samples(places)} samples are newly ruled out, of {len(places)}"
    if kind == "add_shard":
        return f"{ledger.add([Shard(**decision['shard'])])} shard is added"
    if kind == "release_source":
        paused = ledger.release_source(decision["source"])
        return f"source {decision['source']} {'is released' if paused else 'was not paused'}"
    raise ValueError(f"unknown kind {kind!r}")
