"""The first images of a run's sources, looked at without entering them into the books."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from online_swav.config import RunConfig
from online_swav.preprocessing import Preprocessing, squares
from streams.decode import decode_image
from streams.errors import SampleError, StreamError
from streams.reader import RawSample, ShardReader
from streams.shard import Shard
from streams.sources import DirectorySource, parse_sources


def first_squares(
    config: RunConfig, prepare: Preprocessing, *, limit: int, batch: int
) -> Iterator[Tensor]:
    """Batches of float [n, 3, S, S]; what cannot be read or decoded is passed over.

    Args:
        config: Whose sources.
        prepare: Makes squares of pictures.
        limit: Images at most.
        batch: Images at once, at most.
    """
    held: list[Tensor] = []
    for number, square in enumerate(_squares(config, prepare), start=1):
        held.append(square)
        if len(held) == batch or number == limit:
            yield torch.cat(held)
            held = []
        if number == limit:
            return
    if held:
        yield torch.cat(held)


def _squares(config: RunConfig, prepare: Preprocessing) -> Iterator[Tensor]:
    for shard in _shards(config):
        try:
            for sample in ShardReader(shard, limits=config.ingest.limits):
                if not isinstance(sample, RawSample):
                    continue
                try:
                    pixels = decode_image(sample.image, config.ingest.limits)
                except SampleError:
                    continue
                yield squares(prepare, [torch.from_numpy(pixels).permute(2, 0, 1)])
        except StreamError:
            continue  # what was read of it before the damage is whole


def _shards(config: RunConfig) -> Iterator[Shard]:
    for name, pattern in parse_sources(list(config.source)).items():
        source = DirectorySource(name, pattern, settle_s=0.0)
        source.poll()  # an unfinished look needs a second one
        yield from source.poll()
