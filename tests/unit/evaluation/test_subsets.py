"""Parts of the labels: stratified by seed, or from a list."""

import pytest
import torch

from online_swav.errors import ConfigError
from online_swav.evaluation.subsets import listed, stratified

LABELS = torch.tensor([0] * 200 + [1] * 50 + [2] * 3)


def counts(chosen):
    return torch.bincount(LABELS[chosen], minlength=3).tolist()


def test_every_class_gives_its_share_and_at_least_one_image():
    assert counts(stratified(LABELS, fraction=0.1, seed=0)) == [20, 5, 1]
    assert counts(stratified(LABELS, fraction=0.01, seed=0)) == [2, 1, 1]
    assert stratified(LABELS, fraction=1.0, seed=0) == list(range(253))


def test_the_seed_decides_and_larger_shares_hold_smaller_ones():
    one, ten = (stratified(LABELS, fraction=part, seed=4) for part in (0.01, 0.1))
    assert one == stratified(LABELS, fraction=0.01, seed=4)
    assert one != stratified(LABELS, fraction=0.01, seed=5)
    assert set(one) < set(ten)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_a_wrong_share(fraction):
    with pytest.raises(ConfigError, match="share of the labels"):
        stratified(LABELS, fraction=fraction, seed=0)


NAMES = ["/data/n01/n01_7.JPEG", "/data/n01/n01_9.JPEG", "/data/n02/n02_7.JPEG"]


def test_a_list_names_images_with_or_without_folder_and_suffix(tmp_path):
    file = tmp_path / "1percent.txt"
    file.write_text("n02_7.JPEG\n\nn01/n01_7\nn02_7.JPEG\n")
    assert listed(NAMES, file) == [2, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no image"),
        ("n01_7\nn09_1.JPEG\n", "1 of the 2 images .* e.g. 'n09_1' .* such as 'n01_7'"),
        ("twice\n", "2 of the training images"),
    ],
)
def test_wrong_lists(tmp_path, text, said):
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        listed([*NAMES, "a/twice.jpg", "b/twice.jpg"], file)


def test_every_suffix_of_an_image_is_left_away(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("a\nb.PPM\n")
    assert listed(["x/a.bmp", "x/b.ppm", "x/c.gif"], file) == [0, 1]


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        listed(NAMES, tmp_path / "none.txt")
