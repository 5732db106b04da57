"""Labelled images to judge by: from shards or an image folder, decoded anew at every pass.

Only places and labels are held, so a data set may be larger than the memory. A picture that does
not decode is left out of every pass, and counted by nobody's accuracy.
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
from online_swav.evaluation.places import Found, Place, find
from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import SampleError


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
    size: int
    """Side of the squares, in pixels."""
    digest: str
    """Names exactly these images with these labels (not the size of the squares)."""
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

    def picture(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """A whole picture, as large as it is.

        Raises:
            SampleError: If it does not decode, or is gone.
        """
        data = self.places[index].read()
        return torch.from_numpy(decode_image(data, self.limits)).permute(2, 0, 1)

    def squares(
        self, indices: Sequence[int] | None = None, *, batch_size: int = 256
    ) -> Iterator[Squares]:
        """The images as squares in batches: all of them, or those at `indices`, in that order."""
        order = range(len(self)) if indices is None else indices
        for start in range(0, len(order), batch_size):
            good, images = [], []
            for index in order[start : start + batch_size]:
                try:
                    images.append(central_square(self.picture(index), self.size))
                except SampleError:
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
        """Every image decoded, in memory.

        Raises:
            ConfigError: If none decodes.
        """
        parts = list(self.squares())
        if not parts:
            raise self.none_decodes()
        return LabelledImages(
            images=torch.cat([part.images for part in parts]),
            labels=self.labels[torch.cat([part.indices for part in parts])],
        )


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
    limits: LimitsConfig | None = None,
) -> LabelledSet:
    """The labelled images of shards, or of an image folder.

    Args:
        places: Tars, globs or folders of tars, where a label is the member KEY.cls (a number) or
            KEY.json (`{"labels": [3, 7]}`, several labels) beside KEY.jpg; or one folder of images
            in which the first folder below it is the class. Places may overlap.
        size: Side of the squares: the short side is resized to it, the centre is taken.
        limit: Images used at most. Shards, and classes of a folder, give equal shares; shards are
            expected to be shuffled over the classes.
        class_names: Of an image folder, in the order of their labels; by default sorted.
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
        class_names=names, size=size, limits=limits, digest=_digest(found),
    )  # fmt: skip


def labelled_pair(
    train: Sequence[str], test: Sequence[str], *, size: int, limit: int | None = None
) -> tuple[LabelledSet, LabelledSet]:
    """Labelled images of both sides, with one and the same list of classes.

    Raises:
        ConfigError: As `labelled_images`, with the side named; or if the classes do not fit.
    """
    sides: list[LabelledSet] = []
    for flag, places in (("--train", train), ("--test", test)):
        names = None
        if sides and sides[0].class_names != numbers(sides[0].num_classes):
            names = sides[0].class_names
        try:
            sides.append(labelled_images(places, size=size, limit=limit, class_names=names))
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error}") from error
    _check_fit(*sides, limited=limit is not None)
    most = max(sides, key=lambda side: side.num_classes)
    return _widened(sides[0], most.class_names), _widened(sides[1], most.class_names)


def numbers(count: int) -> tuple[str, ...]:
    """Class names where only numbers are known."""
    return tuple(str(number) for number in range(count))


def central_square(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 S S"]:
    """Antialiased resize of the short side, then the central square."""
    resized: Tensor = transforms.resize(image, [size], antialias=True)
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


def _check_fit(train: LabelledSet, test: LabelledSet, *, limited: bool) -> None:
    """See that what is asked of the test images can be known from the training images."""
    if train.multi_label != test.multi_label:
        one, several = ("--test", "--train") if train.multi_label else ("--train", "--test")
        raise ConfigError(
            f"{one} has one label for each image (KEY.cls) and {several} has several (KEY.json); "
            "both sides must be labelled in the same way"
        )
    if train.multi_label:
        known = train.labels.any(dim=0).nonzero().flatten()
        asked = test.labels.nonzero()[:, 1]
    else:
        known, asked = train.labels.unique(), test.labels
    strange = ~torch.isin(asked, known)
    # A sample of many classes lacks some by chance; another data set lacks most.
    allowed = 0.1 if limited else 0.0
    if len(asked) and strange.float().mean().item() > allowed:
        kinds = asked[strange].unique().tolist()
        names = test.class_names
        listed = ", ".join(names[kind] for kind in kinds[:8]) + ", ..." * (len(kinds) > 8)
        raise ConfigError(
            f"the classes differ: --train has {len(known)} and --test {len(asked.unique())}, "
            f"of which {len(kinds)} never occur in --train (label {listed}); both sides must be "
            "of one data set" + (", or --limit is too small for its classes" if limited else "")
        )


def _widened(side: LabelledSet, class_names: tuple[str, ...]) -> LabelledSet:
    """The same set with as many classes as the other side has."""
    labels = side.labels
    if side.multi_label:
        labels = torch.nn.functional.pad(labels, (0, len(class_names) - labels.shape[1]))
    return dataclasses.replace(side, labels=labels, class_names=class_names)
