"""Encoded pictures of one batch to embeddings; each succeeds or fails by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from online_swav.encoder import Encoder
from online_swav.preprocessing import LIMITS
from streams.decode import decode_image
from streams.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Embedded:
    """What the encoder sees in one picture."""

    embedding: list[float]
    """F features."""
    step: int | None
    """Of the encoder; None when its card does not tell."""
    prototype: int | None
    """The nearest one; None where the encoder has none."""


class _Pictures(Sequence[Tensor]):
    """Decoded when asked for: of a batch of large pictures only one is in memory.

    A picture that cannot be decoded is gray, and its error is kept.
    """

    def __init__(self, encoded: Sequence[bytes], faults: list[DecodeError | None]) -> None:
        self._encoded = encoded
        self._numbers = range(len(encoded))
        self._faults = faults

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            part = _Pictures(self._encoded, self._faults)
            part._numbers = self._numbers[index]
            return part
        number = self._numbers[index]
        try:
            pixels = decode_image(self._encoded[number], LIMITS)
        except DecodeError as error:
            self._faults[number] = error
            return torch.full((3, 8, 8), 128, dtype=torch.uint8)
        except MemoryError:
            reason = "the picture needs more memory than there is"
            self._faults[number] = DecodeError(reason, reason="too_large")
            return torch.full((3, 8, 8), 128, dtype=torch.uint8)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def embed(encoder: Encoder, pictures: Sequence[bytes]) -> list[Embedded | DecodeError]:
    """All of them in one pass through the network; one by one where that needs too much memory.

    Args:
        encoder: What sees them.
        pictures: JPEG, PNG, WebP, BMP, GIF or PPM; the bytes decide.
    """
    faults: list[DecodeError | None] = [None] * len(pictures)
    try:
        features, scores = encoder.features_and_scores(_Pictures(pictures, faults))
    except (MemoryError, RuntimeError) as error:  # torch says RuntimeError when memory ends
        if len(pictures) == 1:
            reason = f"the picture cannot be encoded: {str(error).splitlines()[0]}"
            return [DecodeError(reason, reason="too_large")]
        return [found for picture in pictures for found in embed(encoder, [picture])]
    step = encoder.card.get("step")
    winners = [None] * len(pictures) if scores is None else scores.argmax(dim=1).tolist()
    return [
        Embedded(embedding, step, winner) if fault is None else fault
        for embedding, winner, fault in zip(features.tolist(), winners, faults, strict=True)
    ]
