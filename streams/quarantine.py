"""Where unusable samples and shards are kept for a person to look at: copies and JSON lines."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from streams.shard import Shard


class Quarantine:
    """A folder with copies of rejected samples and `samples.jsonl`, `shards.jsonl` beside them.

    Names from tars never become paths: a copy is named by the shard's id and the sample's index.
    A crash between the line and the ledger's entry may repeat a line, never lose one.
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
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / copy).write_bytes(data)
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

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"at": round(time.time(), 3), **entry}, ensure_ascii=True) + "\n"
        # One write with O_APPEND: lines of several actors do not mix.
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
