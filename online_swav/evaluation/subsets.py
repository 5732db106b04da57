"""A part of the labels: drawn class by class, or as a list names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Int64
from torch import Tensor

from online_swav.errors import ConfigError
from streams.reader import IMAGE_SUFFIXES


def stratified(labels: Int64[Tensor, " N"], *, fraction: float, seed: int) -> list[int]:
    """Indices of about `fraction` of every class, at least one of each; the same for a seed.

    A larger fraction with the same seed holds the smaller one's images too.

    Raises:
        ConfigError: If the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the share of the labels must be in (0, 1], got {fraction:g}")
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        chosen += members[order[: max(1, round(fraction * len(members)))]].tolist()
    return sorted(chosen)


def listed(names: Sequence[str], file: Path) -> list[int]:
    """Indices of the images that a text file names, one a line, such as SimCLR's 1percent.txt.

    A name may come with folders and a suffix; the last part without its suffix is compared.

    Args:
        names: Of all images, in their order.
        file: The list.

    Raises:
        ConfigError: If the file cannot be read, is empty, names what is not there, or a name
            stands for several images.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the list of labelled images cannot be read: {error}") from error
    wanted = dict.fromkeys(_key(line) for line in lines if line.strip())
    if not wanted:
        raise ConfigError(f"{file} names no image; one name a line is expected")
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(_key(name), []).append(index)
    missing = [key for key in wanted if key not in places]
    if missing:
        raise ConfigError(
            f"{len(missing)} of the {len(wanted)} images that {file} names are not among the "
            f"{len(names)} training images, e.g. {missing[0]!r} (these have names such as "
            f"{_key(names[0])!r})"
        )
    double = next((key for key in wanted if len(places[key]) > 1), None)
    if double is not None:
        raise ConfigError(
            f"{double!r} in {file} could be {len(places[double])} of the training images; a list "
            "needs names that stand for one image each"
        )
    return [places[key][0] for key in wanted]


def _key(name: str) -> str:
    last = PurePosixPath(name.strip()).name
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix.lower() in IMAGE_SUFFIXES else last
