"""The pictures of a shard in batches, the next one decoded while this one is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from online_swav.embeddings.parts import Missing
from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import DecodeError
from streams.reader import RawSample, ShardReader
from streams.shard import Shard

MOST_PIXELS = 2**25
"""Of one batch: large pictures make it smaller, so that the memory does not depend on them."""
T = TypeVar("T")


@dataclass(slots=True)
class Batch:
    """Pictures of any sizes, and the samples that they are of."""

    samples: list[RawSample] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    pixels: int = 0


def decoded(
    reader: ShardReader, shard: Shard, missing: list[Missing], size: int
) -> Iterator[Batch]:
    """The pictures of a shard in batches; what is none goes to `missing`."""
    batch = Batch()
    for sample in reader:
        detail, reason = "", ""
        if isinstance(sample, RawSample):
            try:
                image = torch.from_numpy(decode_image(sample.image, LimitsConfig()))
            except DecodeError as error:
                detail, reason = str(error), error.reason
            else:
                batch.samples.append(sample)
                batch.images.append(image.permute(2, 0, 1))
                batch.pixels += image.shape[0] * image.shape[1]
        else:
            detail, reason = sample.detail, sample.reason
        if reason:
            missing.append(Missing(shard=shard.url, index=sample.index, key=sample.key,
                                   reason=reason, detail=detail))  # fmt: skip
        if len(batch.samples) >= size or batch.pixels >= MOST_PIXELS:
            yield batch
            batch = Batch()
    if batch.samples:
        yield batch


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while this one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
