"""The stream of `peers_learning.py`: the same shards, read anew as long as somebody trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

from online_swav.crops import as_tensors
from online_swav.errors import ConfigError
from streams.config import BudgetConfig, CropFamily, IngestConfig
from streams.ledger import Ledger
from streams.reader_processes import Readers
from streams.reader_worker import ReaderConfig
from streams.sources import DirectorySource, describe_missing

LONGEST_WAIT_S = 300.0


def batches(
    patterns: Sequence[str], families: tuple[CropFamily, ...], *, batch: int, readers: int,
    seed: int, folder: Path,
) -> Iterator[list[Tensor]]:  # fmt: skip
    """Whole batches of uint8 crops [v, B, 3, s, s] without end; valid until the next one.

    Every image once, then every image again: the crops of an image in a pass depend on `seed`
    alone, so methods with the same crop families see the same crops.

    Args:
        patterns: The shards.
        families: What is cut of an image.
        batch: B; what is left over of a pass is not given.
        readers: One reads in a thread, several in processes.
        seed: Of the crops and their order.
        folder: For the book of what was read; empty.

    Raises:
        ConfigError: If there are no shards, or nothing comes of them.
    """
    sources = [DirectorySource(f"s{i}", p, settle_s=0.0) for i, p in enumerate(patterns)]
    for pattern in patterns:
        if missing := describe_missing(pattern):
            raise ConfigError(f"--images: {missing}")
    config = IngestConfig(actors=readers, batch_size=batch, open_shards=4, window=2048)
    book = Ledger(folder / "ledger.sqlite", lease_s=config.lease_s,
                  max_attempts=config.max_attempts, budget=BudgetConfig())  # fmt: skip
    with closing(book) as ledger:
        for source in sources:
            source.poll()  # an unfinished look needs a second one
            if not ledger.add(source.poll()):
                raise ConfigError(f"--images: no shard in {source.pattern}")
        generation = ledger.begin(0)
        told = ReaderConfig(families=families, ingest=config, quarantine=folder / "quarantine",
                            generation=generation, seed=seed)  # fmt: skip
        with closing(Readers(ledger, told)) as reading:
            step, came_at, flush = 0, time.monotonic(), False
            while True:
                read = reading.next_batch(flush=flush)
                if read is None:
                    if time.monotonic() - came_at > LONGEST_WAIT_S:
                        raise ConfigError(f"no {batch} images came of {', '.join(patterns)}")
                    if reading.dry:
                        # What waits in a begun batch must be known before a shard is done.
                        flush = not ledger.replay()
                    continue
                came_at, flush = time.monotonic(), False
                step += 1
                good = ledger.claim(read.origins, generation=generation, rank=0, step=step)
                if step % 100 == 0:
                    ledger.fold(step - 1)
                if all(good) and len(read) == batch:
                    yield as_tensors(read)
