"""Opens the bytes of a shard, and proves that they are the bytes that were discovered.

Local files only, by path: no URL is interpreted and no shell is ever run (webdataset's own opener
runs one for `pipe:` names).
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from streams.errors import ShardError
from streams.shard import Shard

_BUFFER_BYTES = 32 * 1024  # a header is 512 bytes; larger buffers only slow down skipping


def fingerprint(status: os.stat_result) -> str:
    """What tells two versions of a file apart: size in bytes and modification time in ns."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def open_shard(shard: Shard) -> BinaryIO:
    """Open a shard for reading.

    The check is made on the open descriptor, so a file that is replaced later cannot slip in.

    Raises:
        ShardError: `missing` if the file is gone, `replaced` if its size or modification time is
            no longer the discovered one, `unreadable` if it cannot be opened or is no plain file.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe that somebody called .tar would wait for ever.
        descriptor = os.open(shard.url, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ShardError(
            f"{shard.url} is gone; keep a shard in place until it is done",
            url=shard.url, reason="missing",
        ) from error  # fmt: skip
    except (OSError, ValueError) as error:
        raise ShardError(
            f"{shard.url} cannot be opened: {error}", url=shard.url, reason="unreadable"
        ) from error
    try:
        check_unchanged(descriptor, shard)
    except ShardError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=_BUFFER_BYTES)


def check_unchanged(descriptor: int, shard: Shard) -> None:
    """Prove that an open file still holds the discovered bytes.

    Raises:
        ShardError: `replaced` if it does not, `unreadable` if it is no plain file.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ShardError(f"{shard.url} is not a plain file", url=shard.url, reason="unreadable")
    if fingerprint(status) != shard.fingerprint:
        raise ShardError(
            f"{shard.url} changed since it was discovered ({shard.fingerprint} then, "
            f"{fingerprint(status)} now); the new bytes will be offered as a new shard",
            url=shard.url, reason="replaced",
        )  # fmt: skip
