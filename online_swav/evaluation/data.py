"""Labelled images to judge by: from shards or an image folder, decoded anew at every pass.

Only places and labels are held, so a data set may be larger than the memory. A picture that does
not decode is left out of every pass and of every accuracy; whoever makes the pass warns of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from online_swav.errors import ConfigError
from online_swav.evaluation.find import find
from online_swav.evaluation.left_out import LeftOut
from online_swav.evaluation.places import Found, Place
from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import SampleError

OFFICIAL_MARGIN = 256 / 224
"""Of SwAV's test images: the short side is resized to 256 for a central square of 224."""
_LONGEST = 16
"""Sides beyond this ratio are cut before the resize: a ribbon resized whole fills a memory."""


class Squares(NamedTuple):
    """Some images of a set, as a trunk sees them."""

    indices: Int64[Tensor, " B"]
    """Their positions in the set."""
    images: UInt8[Tensor, "B 3 S S"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledSet:
    """Images with their labels; the images stay where they are until they are asked for."""

    title: str
    """The places it is from, in words."""
    places: tuple[Place, ...]
    labels: Shaped[Tensor, N * C]
    """Int64 [N], or bool [N, C] where an image may have several labels."""
    class_names: tuple[str, ...]
    """By label; the numbers themselves where no names are known."""
    names_known: bool
    """Whether the classes have names: those of folders, numbers among them."""
    size: int
    """Side of the squares, in pixels."""
    digest: str
    """Names exactly these images with these labels (not how the squares are cut)."""
    margin: float = 1.0
    """Short side of a picture over the side of its square: 1 leaves no margin beside the short
    side, `OFFICIAL_MARGIN` what the official scripts leave."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @property
    def short_side(self) -> int:
        """What the short side of a picture is resized to, in pixels."""
        return round(self.size * self.margin)

    @property
    def view(self) -> str:
        """The squares in words, such as `224 px of 256`."""
        of = f" of {self.short_side}" if self.short_side != self.size else ""
        return f"{self.size} px{of}"

    def picture(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """A whole picture, as large as it is.

        Raises:
            SampleError: If it does not decode, or is gone.
        """
        data = self.places[index].read()
        return torch.from_numpy(decode_image(data, self.limits)).permute(2, 0, 1)

    def squares(
        self,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int = 256,
        left_out: LeftOut | None = None,
    ) -> Iterator[Squares]:
        """The images as squares in batches: all of them, or those at `indices`, in that order.

        Args:
            indices: Positions in the set.
            batch_size: Images at once, at most.
            left_out: Told of what gives no picture.
        """
        order = range(len(self)) if indices is None else indices
        for start in range(0, len(order), batch_size):
            good, images = [], []
            for index in order[start : start + batch_size]:
                try:
                    images.append(
                        central_square(self.picture(index), self.size, short_side=self.short_side)
                    )
                except SampleError as error:
                    if left_out is not None:
                        left_out.note(index, error)
                    continue
                good.append(index)
            if images:
                yield Squares(torch.tensor(good), torch.stack(images))

    def none_decodes(self) -> ConfigError:
        """What to raise when no image decodes: it names the first one's fault."""
        why = ""
        try:
            self.picture(0)
        except SampleError as error:
            why = f"; the first, {self.places[0].path}: {error}"
        return ConfigError(f"none of the {len(self)} images in {self.title} decodes{why}")

    def subset(self, indices: Sequence[int]) -> LabelledSet:
        """Only the images at `indices`, in that order."""
        chosen = hashlib.blake2b(np.asarray(indices, dtype=np.int64).tobytes(), digest_size=8)
        return dataclasses.replace(
            self,
            places=tuple(self.places[i] for i in indices),
            labels=self.labels[torch.as_tensor(indices, dtype=torch.long)],
            digest=f"{self.digest}-{chosen.hexdigest()}",
        )

    def held(self) -> LabelledImages:
        """Every image that decodes, in memory; warns of the others.

        Raises:
            ConfigError: If none decodes.
        """
        left_out = LeftOut(self.title, of=len(self))
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        indices: list[int] = []
        for part in self.squares(left_out=left_out):
            images[len(indices) : len(indices) + len(part.indices)] = part.images
            indices += part.indices.tolist()
        if not indices:
            raise self.none_decodes()
        left_out.tell()
        return LabelledImages(images=images[: len(indices)], labels=self.labels[indices])


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Squares with their labels, in memory."""

    images: UInt8[Tensor, "N 3 S S"]
    labels: Shaped[Tensor, N * C]


def labelled_images(
    places: Sequence[str],
    *,
    size: int,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    margin: float = 1.0,
    limits: LimitsConfig | None = None,
) -> LabelledSet:
    """The labelled images of shards, or of an image folder.

    Args:
        places: Tars, globs or folders of tars, where a label is the member KEY.cls (a number) or
            KEY.json (`{"labels": [3, 7]}`, several labels) beside KEY.jpg; or one folder of images
            in which the first folder below it is the class. Places may overlap.
        size: Side of the squares: the short side is resized to it (see `margin`), the centre is
            taken.
        limit: Images used at most. Shards, and classes of a folder, give equal shares; shards are
            expected to be shuffled over the classes.
        class_names: Of an image folder, in the order of their labels; by default sorted, by value
            where all are numbers. Shards have none.
        margin: See `LabelledSet.margin`.
        limits: Caps on members and pictures.

    Raises:
        ConfigError: If there are no images, or they have no labels.
    """
    if size < 1:
        raise ConfigError(f"--size must be at least 1, got {size}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    limits = limits or LimitsConfig()
    found = find(places, limit=limit, class_names=class_names, limits=limits)
    largest = max(label for labels in found.labels for label in labels)
    names = found.class_names or numbers(largest + 1)
    return LabelledSet(
        title=", ".join(places), places=found.places, labels=_labels(found, len(names)),
        class_names=names, names_known=bool(found.class_names), size=size, margin=margin,
        limits=limits, digest=_digest(found),
    )  # fmt: skip


def numbers(count: int) -> tuple[str, ...]:
    """Class names where only numbers are known."""
    return tuple(str(number) for number in range(count))


def central_square(
    image: UInt8[Tensor, "3 h w"], size: int, *, short_side: int | None = None
) -> UInt8[Tensor, "3 S S"]:
    """Antialiased resize of the short side (to `size` by default), then the central square."""
    longest = _LONGEST * min(image.shape[-2:])
    if max(image.shape[-2:]) > longest:
        image = transforms.center_crop(image, [min(side, longest) for side in image.shape[-2:]])
    resized: Tensor = transforms.resize(image, [short_side or size], antialias=True)
    square: Tensor = transforms.center_crop(resized, [size, size])
    return square


def _labels(found: Found, num_classes: int) -> Int64[Tensor, " N"] | Bool[Tensor, "N C"]:
    if not found.multi_label:
        return torch.tensor([labels[0] for labels in found.labels])
    table = torch.zeros(len(found.labels), num_classes, dtype=torch.bool)
    for row, labels in enumerate(found.labels):
        table[row, list(labels)] = True
    return table


def _digest(found: Found) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for place, labels in zip(found.places, found.labels, strict=True):
        digest.update(f"{place.path}\0{place.fingerprint}\0{place.at}\0{labels}\n".encode(
            "utf-8", "surrogateescape"))  # fmt: skip
    return digest.hexdigest()
