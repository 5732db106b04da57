"""Where unusable samples and shards are kept for a person to look at: copies and JSON lines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streams.errors import QuarantineError
from streams.shard import Shard


class Quarantine:
    """A folder with copies of rejected samples and `samples.jsonl`, `shards.jsonl` beside them.

    `decided.jsonl` has the samples that a person has dealt with (`quarantine_review.py`).

    Names from tars never become paths: a copy is named by the shard's id and the sample's index.
    A crash between the line and the ledger's entry may repeat a line, never lose one.

    All methods raise `QuarantineError` when the disk refuses; no half copy is left then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep_sample(
        self, shard: Shard, *, index: int, key: str, reason: str, detail: str,
        suffix: str, data: bytes | None,
    ) -> None:  # fmt: skip
        """Copy the sample's image bytes, when there are any, and write its line."""
        copy = None
        if data is not None:
            safe = re.sub(r"[^a-z0-9]", "", suffix.lower())[:8] or "bin"
            copy = f"{shard.id}-{index:06d}.{safe}"
            with self._explained(copy):
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    (self.folder / copy).write_bytes(data)
                except OSError:
                    (self.folder / copy).unlink(missing_ok=True)
                    raise
        self._append(
            "samples.jsonl",
            {"url": shard.url, "shard": shard.id, "source": shard.source, "index": index,
             "key": key, "reason": reason, "detail": detail, "copy": copy},
        )  # fmt: skip

    def keep_shard(self, shard: Shard, *, fault: str) -> None:
        """Write the line of a shard that is damaged or cannot be read. Its bytes stay in place."""
        self._append(
            "shards.jsonl",
            {"url": shard.url, "shard": shard.id, "source": shard.source,
             "size_bytes": shard.size_bytes, "fault": fault},
        )  # fmt: skip

    def note_decision(self, *, shard: str, index: int, decision: str) -> None:
        """Write that a person has decided on a sample."""
        self._append("decided.jsonl", {"shard": shard, "index": index, "decision": decision})

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        line = json.dumps({"at": round(time.time(), 3), **entry}, ensure_ascii=True) + "\n"
        with self._explained(name):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # lest another actor's line be cut
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, line.encode()) < len(line):
                    os.ftruncate(descriptor, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise QuarantineError(
                f"cannot write {name} into the quarantine {self.folder}: "
                f"{error.strerror or error}; make room or fix the permissions, then start the same "
                "command again: nothing is lost"
            ) from error
