"""Prototypes and the images nearest to them: the most used, those that rise, those that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from online_swav.report.encoder import Encoded
from online_swav.report.samples import SampleImage
from online_swav.report.thumbnails import uri
from online_swav.wording import amount

SHOWN = 6
NEAREST = 8
LEAST_CHANGE = 3
"""Images by which a count must differ before a prototype rises or dies."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture and what is known of it."""

    uri: str
    words: str


@dataclass(frozen=True, slots=True)
class Prototype:
    """One prototype."""

    number: int
    share: str
    """Of the sample's images that it wins, now and before."""
    label: str
    """The most frequent label among these; empty without labels."""
    nearest: tuple[Thumbnail, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Prototypes of one kind."""

    title: str
    caption: str
    prototypes: tuple[Prototype, ...]
    missing: str
    """Why there are none, in a sentence."""


def gallery(
    images: Sequence[SampleImage], now: Encoded, before: Encoded | None
) -> tuple[str, list[Group]]:
    """A sentence on the whole, and the three groups.

    Args:
        images: The sample.
        now: As the newest checkpoint sees it.
        before: As the oldest one that is kept sees it; None if it is the same.
    """
    usage = now.usage
    order = [k for k in usage.argsort(descending=True, stable=True).tolist() if usage[k] > 0]
    used = len(order)
    summary = (
        f"At step {now.step:,}, {used} of {amount(len(usage), 'prototype')} win at least one of "
        f"{amount(len(images), 'sample image')}."
    )
    most = order[:SHOWN]
    groups = [
        Group("Most used", f"What they stand for at step {now.step:,}.",
              tuple(_prototype(k, images, now, now, before) for k in most), "")
    ]  # fmt: skip
    if before is None:
        alone = (
            "It takes two checkpoints to see a change, and only one is kept; a second fills this."
        )
        return summary, [*groups, Group("Rising", "", (), alone), Group("Dying", "", (), alone)]
    change = usage - before.usage
    rising = [k for k in change.argsort(descending=True, stable=True).tolist()
              if change[k] >= LEAST_CHANGE and k not in most][:SHOWN]  # fmt: skip
    dying = [k for k in change.argsort(stable=True).tolist()
             if change[k] <= -LEAST_CHANGE][:SHOWN]  # fmt: skip
    span = f"from step {before.step:,} to {now.step:,}"
    groups.append(
        Group("Rising", f"They win more images than they did {span}: what they stand for now.",
              tuple(_prototype(k, images, now, now, before) for k in rising),
              "" if rising else f"Beside the most used, no prototype wins at least {LEAST_CHANGE} "
              f"images more than at step {before.step:,}.")
    )  # fmt: skip
    groups.append(
        Group("Dying", f"They win fewer images than they did {span}: what they stood for then.",
              tuple(_prototype(k, images, before, now, before) for k in dying),
              "" if dying else f"No prototype wins at least {LEAST_CHANGE} images fewer than at "
              f"step {before.step:,}.")
    )  # fmt: skip
    return summary, groups


def _prototype(
    number: int, images: Sequence[SampleImage], seen: Encoded, now: Encoded, before: Encoded | None
) -> Prototype:
    total = len(images)
    share = f"{now.usage[number] / total:.1%}"
    if before is not None:
        share += f", was {before.usage[number] / total:.1%}"
    nearest = seen.scores[:, number].topk(min(NEAREST, total)).indices.tolist()
    won = torch.nonzero(seen.winners == number).flatten().tolist()
    return Prototype(
        number, share, _main_label([images[i] for i in won]),
        tuple(_thumbnail(images[i], float(seen.scores[i, number])) for i in nearest),
    )  # fmt: skip


def _thumbnail(image: SampleImage, score: float) -> Thumbnail:
    label = f"label {image.label}, " if image.label is not None else ""
    return Thumbnail(uri(image.thumbnail), f"{image.key}, {label}cosine {score:.2f}")


def _main_label(images: Sequence[SampleImage]) -> str:
    labels = Counter(image.label for image in images if image.label is not None)
    if not labels:
        return ""
    label, count = labels.most_common(1)[0]
    return f"{count / labels.total():.0%} have label {label}"
