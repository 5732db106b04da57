"""A small labelled data set on disk."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from online_swav.evaluation.pairs import labelled_pair


def write_coloured(folder, *, count, seed):
    """An image folder of two classes: reddish and bluish pictures of several sizes."""
    rng = np.random.default_rng(seed)
    for label, channel in (("red", 0), ("sea", 2)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 80, size=(40 + number, 48, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / label / f"{label}{seed}_{number}.png")


@pytest.fixture
def coloured_folders(tmp_path):
    """Image folders of training and test images that their colour tells apart."""
    write_coloured(tmp_path / "train", count=8, seed=0)
    write_coloured(tmp_path / "test", count=4, seed=1)
    return SimpleNamespace(train=str(tmp_path / "train"), test=str(tmp_path / "test"))


@pytest.fixture
def coloured(coloured_folders):
    """The same as labelled sets at 32 px."""
    return labelled_pair([coloured_folders.train], [coloured_folders.test], size=32)
