"""From pictures to what a backbone takes: short side resized, central square, normalised.

The same as torchvision's `Resize(size, antialias=True)`, `CenterCrop(size)`, `ToDtype` and
`Normalize`, on reals throughout: no value is rounded to a byte in between. Made of operations that
torch.export and ONNX know, for any number and size of pictures, so that exports carry it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from streams.config import LimitsConfig
from streams.decode import decode_image, pixels_of
from streams.errors import DecodeError

Pictures = Tensor | Sequence[Tensor] | Sequence[Image.Image] | Sequence[str] | Sequence[Path]
"""uint8 [N, 3, H, W]; or one by one, of any sizes: uint8 [3, H, W], PIL images, paths."""

LIMITS = LimitsConfig(min_side=1)
"""Of pictures that somebody asks about one by one: small ones too have features."""
_LONGEST = 16
"""Sides beyond this ratio are cut before the resize: only the central square is looked at."""


class Preprocessing(nn.Module):
    """uint8 [N, 3, H, W] to float [N, 3, size, size].

    Args:
        size: Side of the square, in pixels.
        mean: Subtracted per channel after scaling to [0, 1].
        std: Divided by per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    @staticmethod
    def of_card(card: dict[str, Any]) -> Preprocessing:
        """As a card says."""
        told = card["preprocessing"]
        return Preprocessing(size=int(told["size"]), mean=told["mean"], std=told["std"])

    def forward(self, images: Tensor) -> Tensor:
        """The normalised central squares."""
        height, width = images.shape[-2:]
        short = cast(int, torch.sym_min(height, width))  # a symbol while it is exported
        rows, columns = self.size * height // short, self.size * width // short
        resized = F.interpolate(
            images.float(), size=(rows, columns), mode="bilinear", antialias=True
        )
        # By index: a slice that takes all would be another case to torch.export.
        pixels = torch.arange(self.size, device=images.device)
        square = resized.index_select(2, pixels + _margin(rows - self.size))
        square = square.index_select(3, pixels + _margin(columns - self.size))
        normalised: Tensor = (square / 255 - self.mean) / self.std
        return normalised


def _margin(spare: int) -> int:
    """Half of it, halves to the even number: as Python's round, which torchvision uses."""
    return (spare + spare // 2 % 2) // 2


def batches(images: Pictures, size: int) -> list[Pictures]:
    """Consecutive parts of at most `size` pictures.

    Raises:
        ValueError: If it is a single picture.
    """
    if isinstance(images, str | Path | Image.Image):
        raise ValueError("give a list of pictures, also for a single one")
    return [images[start : start + size] for start in range(0, len(images), size)]


def squares(preprocessing: Preprocessing, images: Pictures) -> Tensor:
    """Any pictures as float [N, 3, size, size], on the device of `preprocessing`.

    Raises:
        ValueError: If a tensor is not uint8 [N, 3, H, W] (or [3, H, W] in a list).
        DecodeError: If a file is no picture.
        OSError: If a file cannot be read.
    """
    device = preprocessing.mean.device
    if isinstance(images, Tensor):
        _require_pixels(images, dims=4)
        square: Tensor = preprocessing(_cut(images).to(device))
        return square
    if not len(images):
        return torch.empty(0, 3, preprocessing.size, preprocessing.size, device=device)
    return torch.cat([preprocessing(_cut(_pixels(image))[None].to(device)) for image in images])


def pixels_of_file(path: Path) -> Tensor:
    """A picture as uint8 [3, H, W].

    Raises:
        DecodeError: If the file is no picture.
        OSError: If it cannot be read.
    """
    try:
        pixels = decode_image(path.read_bytes(), LIMITS)
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}", reason=error.reason) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _pixels(image: Tensor | Image.Image | str | Path) -> Tensor:
    if isinstance(image, Tensor):
        _require_pixels(image, dims=3)
        return image
    if isinstance(image, Image.Image):
        return torch.from_numpy(pixels_of(image)).permute(2, 0, 1)
    return pixels_of_file(Path(image))


def _require_pixels(image: Tensor, *, dims: int) -> None:
    if image.dtype != torch.uint8 or image.dim() != dims or image.shape[-3] != 3:
        wanted = "[N, 3, H, W]" if dims == 4 else "[3, H, W]"
        raise ValueError(
            f"pictures are uint8 {wanted}, and this is {image.dtype} {list(image.shape)}"
        )
    if 0 in image.shape[-2:]:
        raise ValueError(f"a picture of {list(image.shape[-2:])} has no pixels")


def _cut(image: Tensor) -> Tensor:
    """Without the far ends of a ribbon: resized whole, one of 1 x 60,000 pixels fills a memory."""
    height, width = image.shape[-2:]
    longest = _LONGEST * min(height, width)
    rows, columns = min(height, longest), min(width, longest)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[..., top : top + rows, left : left + columns]
