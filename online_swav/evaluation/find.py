"""From places that a user names to labelled images: one image folder, or shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from online_swav.errors import ConfigError
from online_swav.evaluation.image_folder import in_folder, tree_of
from online_swav.evaluation.labelled_shards import in_shards
from online_swav.evaluation.places import Found
from streams.config import LimitsConfig

logger = logging.getLogger(__name__)


def find(
    places: Sequence[str],
    *,
    limit: int | None,
    class_names: Sequence[str] | None,
    limits: LimitsConfig,
) -> Found:
    """The labelled images at some places; see `data.labelled_images`.

    Raises:
        ConfigError: If there are none, or they have no labels.
    """
    if not places:
        raise ConfigError("no place was given; name shards (tars, a glob) or an image folder")
    trees = [tree_of(Path(text)) for text in places if Path(text).is_dir()]
    folders = [tree for tree in trees if tree.tar is None]
    for tree in trees:
        if tree.tar is not None and tree.images:
            logger.warning(
                "%s holds a tar (%s), so it is read as shards; its %d images beside are passed "
                "over", tree.folder, tree.tar, len(tree.images),
            )  # fmt: skip
    if not folders:
        return in_shards(places, limit=limit, limits=limits)
    if len(places) > 1:
        raise ConfigError(
            f"{folders[0].folder} holds no shards; beside other places only shards can be given "
            "(`online-swav pack` makes them of an image folder)"
        )
    return in_folder(folders[0], limit=limit, class_names=class_names)
