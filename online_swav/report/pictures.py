"""The sections that show images: prototypes, map, crops; with pictures or with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from online_swav.report.crops import CroppedImage, crop_images
from online_swav.report.embedding_map import Map, embedding_map
from online_swav.report.encoder import Encoded, encode
from online_swav.report.facts import Facts
from online_swav.report.gallery import Group, gallery
from online_swav.report.samples import Sample, take_sample
from online_swav.wording import amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What is shown, or why not, in a sentence."""

    origin: str = ""
    """Where the sample is from."""
    usage: str = ""
    """How many prototypes win an image."""
    groups: tuple[Group, ...] = ()
    map: Map | None = None
    crops: tuple[CroppedImage, ...] = ()
    missing_encoder: str = ""
    """Why there are no prototypes and no map."""
    missing_crops: str = ""


def pictures_of(
    facts: Facts, shards: Sequence[str], *, images: int, with_images: bool,
    say: Callable[[str], None],
) -> Pictures:  # fmt: skip
    """The three sections.

    Raises:
        ConfigError: If `shards` are given and match nothing.
    """
    if not with_images:
        left_out = "Left out by --no-images."
        return Pictures(missing_encoder=left_out, missing_crops=left_out)
    say(f"reading up to {amount(images, 'image')}")
    sample = take_sample(facts.config, shards, limit=images)
    if sample.missing:
        return Pictures(missing_encoder=sample.missing, missing_crops=sample.missing)
    origin = (
        f"{amount(len(sample.images), 'image')} of {amount(sample.shards, 'shard')}: "
        f"{sample.origin}"
    )
    crops = tuple(crop_images(facts.config, sample.images))
    try:
        now, before = _encoded(facts, sample, say)
    except ValueError as error:
        return Pictures(origin=origin, crops=crops, missing_encoder=str(error))
    usage, groups = gallery(sample.images, now, before)
    return Pictures(origin=origin, usage=usage, groups=tuple(groups), crops=crops,
                    map=embedding_map(sample.images, now))  # fmt: skip


def _encoded(
    facts: Facts, sample: Sample, say: Callable[[str], None]
) -> tuple[Encoded, Encoded | None]:
    """The sample as the newest checkpoint sees it, and the oldest one that is kept.

    Raises:
        ValueError: If no checkpoint can be used; in a sentence.
    """
    if facts.newest is None:
        if any((facts.run / "checkpoints").glob("step-*")):
            raise ValueError(
                "None of its checkpoints can be used: they are damaged, or of another version."
            )
        every = facts.config.checkpoint
        raise ValueError(
            f"The run has no checkpoint yet. The first comes after {every.every_steps:,} steps or "
            f"{every.every_s:,.0f} seconds of training, and fills this."
        )
    try:
        say(f"encoding them with the checkpoint of step {facts.newest.manifest.step:,}")
        now = encode(facts.config, facts.newest, sample.images)
    except ValueError as error:
        raise ValueError(f"The encoder cannot be asked: {error}.") from error
    oldest = facts.checkpoints[0]
    if oldest.manifest.step == now.step:
        return now, None
    try:
        say(f"encoding them with the checkpoint of step {oldest.manifest.step:,}")
        return now, encode(facts.config, oldest, sample.images)
    except ValueError:  # pruned by the run in the meantime, or damaged weights of a bad moment
        return now, None
