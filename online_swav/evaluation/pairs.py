"""Training and test images that belong together: the same classes, and no image on both sides."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from online_swav.errors import ConfigError
from online_swav.evaluation.data import LabelledSet, labelled_images
from streams.config import LimitsConfig

logger = logging.getLogger(__name__)

_CHANCE = 1.5
"""A sample may lack so many times the classes that a balanced draw lacks by chance."""


def labelled_pair(
    train: Sequence[str],
    test: Sequence[str],
    *,
    size: int,
    limit: int | None = None,
    margin: float = 1.0,
    limits: LimitsConfig | None = None,
    flags: tuple[str, str] = ("--train", "--test"),
) -> tuple[LabelledSet, LabelledSet]:
    """Labelled images of both sides, with one and the same list of classes.

    Images that are on both sides are warned of: their labels are known beforehand.

    Args:
        train: As `labelled_images`.
        test: As there.
        size: As there.
        limit: As there, of each side.
        margin: As there.
        limits: As there.
        flags: What the user knows the sides by.

    Raises:
        ConfigError: As `labelled_images`, with the side named; or if the classes do not fit.
    """
    sides: list[LabelledSet] = []
    for flag, places in zip(flags, (train, test), strict=True):
        names = sides[0].class_names if sides and sides[0].names_known else None
        try:
            sides.append(labelled_images(
                places, size=size, limit=limit, class_names=names, margin=margin, limits=limits,
            ))  # fmt: skip
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error}") from error
    _require_one_kind(sides, flags)
    most = max(sides, key=lambda side: (side.num_classes, side.names_known))
    sides = [_widened(side, most) for side in sides]
    _require_known_classes(*sides, flags=flags, limited=limit is not None)
    _warn_of_shared(*sides, flags=flags)
    return sides[0], sides[1]


def _require_one_kind(sides: Sequence[LabelledSet], flags: tuple[str, str]) -> None:
    """Both sides labelled in the same way."""
    if sides[0].multi_label != sides[1].multi_label:
        one, several = flags[::-1] if sides[0].multi_label else flags
        raise ConfigError(
            f"{one} has one label for each image (KEY.cls) and {several} has several (KEY.json); "
            "both sides must be labelled in the same way"
        )
    if sides[0].names_known != sides[1].names_known:
        counts = [side.num_classes for side in sides]
        if counts[0] != counts[1]:
            named, numbered = (0, 1) if sides[0].names_known else (1, 0)
            raise ConfigError(
                f"the classes cannot be matched: {flags[named]} has {counts[named]} class folders "
                f"with names and {flags[numbered]} {counts[numbered]} classes by number; label "
                "both sides in the same way"
            )


def _require_known_classes(
    train: LabelledSet, test: LabelledSet, *, flags: tuple[str, str], limited: bool
) -> None:
    """What is asked of the test images can be known from the training images."""
    if train.multi_label:
        known = train.labels.any(dim=0).nonzero().flatten()
        asked = test.labels.nonzero()[:, 1]
    else:
        known, asked = train.labels.unique(), test.labels
    strange = ~torch.isin(asked, known)
    # A sample of many classes lacks some by chance; another data set lacks most.
    chance = math.exp(-len(train) / max(1, len(torch.cat([known, asked]).unique())))
    allowed = max(0.1, _CHANCE * chance) if limited else 0.0
    if len(asked) and strange.float().mean().item() > allowed:
        kinds = asked[strange].unique().tolist()
        names = test.class_names
        listed = ", ".join(names[kind] for kind in kinds[:8]) + ", ..." * (len(kinds) > 8)
        raise ConfigError(
            f"the classes differ: {flags[0]} has {len(known)} and {flags[1]} "
            f"{len(asked.unique())}, of which {len(kinds)} never occur in {flags[0]} (label "
            f"{listed}); both sides must be of one data set"
            + (", or the limit is too small for its classes" if limited else "")
        )


def _widened(side: LabelledSet, most: LabelledSet) -> LabelledSet:
    """The same set with the classes of the side that has the most."""
    labels = side.labels
    if side.multi_label:
        labels = torch.nn.functional.pad(labels, (0, most.num_classes - labels.shape[1]))
    return dataclasses.replace(
        side, labels=labels, class_names=most.class_names, names_known=most.names_known
    )


def _warn_of_shared(train: LabelledSet, test: LabelledSet, *, flags: tuple[str, str]) -> None:
    both = _images(train) & _images(test)
    if both:
        logger.warning(
            "%d of the %d images of %s are in %s too: the figures are too high",
            len(both), len(test), flags[1], flags[0],
        )  # fmt: skip


def _images(side: LabelledSet) -> set[tuple[int, int, int]]:
    """Which bytes of which files: a link to an image is the same image."""
    files: dict[str, tuple[int, int] | None] = {}
    for path in {place.path for place in side.places}:
        try:
            status = Path(path).stat()
        except OSError:  # gone meanwhile: it will be left out, and counted
            files[path] = None
        else:
            files[path] = status.st_dev, status.st_ino
    return {(*file, place.at) for place in side.places if (file := files[place.path]) is not None}
