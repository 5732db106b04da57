"""Both sides of an evaluation: the same class has the same label, and no image is on both."""

import shutil

import pytest
from PIL import Image

from online_swav.assemble import load_probe_images
from online_swav.config import ProbeConfig, RunConfig
from online_swav.errors import ConfigError
from online_swav.evaluation.pairs import labelled_pair
from streams.testing import write_test_shards


def image_folder(folder, classes):
    """Class folders; each class has its own grey."""
    for name, grey in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (grey,) * 3).save(folder / name / f"{number}.png")
    return [str(folder)]


@pytest.mark.parametrize("names", ["012", ("10", "2", "9"), ("auk", "tit", "wren")])
def test_a_class_folder_has_one_label_on_both_sides_also_where_it_is_a_number(tmp_path, names):
    first, second, third = names
    train = image_folder(tmp_path / "train", {first: 10, second: 20, third: 30})
    test = image_folder(tmp_path / "test", {first: 10, third: 30})
    sides = labelled_pair(train, test, size=8)
    greys = [{name: side.held().images[side.labels.tolist().index(label), 0, 0, 0].item()
              for label, name in enumerate(side.class_names) if label in side.labels.tolist()}
             for side in sides]  # fmt: skip
    assert greys == [{first: 10, second: 20, third: 30}, {first: 10, third: 30}]
    assert sides[0].class_names == sides[1].class_names
    assert sides[1].names_known


def test_folders_with_numbers_are_in_the_order_of_their_values(tmp_path):
    train = image_folder(tmp_path / "train", {str(number): number for number in range(12)})
    test = write_test_shards(tmp_path / "test", shards=1, samples_per_shard=12, labels=lambda i: i)
    sides = labelled_pair(train, [str(test[0])], size=8)
    assert sides[0].class_names == sides[1].class_names == tuple(str(n) for n in range(12))


def test_names_on_one_side_and_numbers_on_the_other_need_as_many_classes(tmp_path):
    folder = image_folder(tmp_path / "folder", {"auk": 1, "tit": 2, "wren": 3})
    for count, name in ((2, "two"), (3, "three")):
        write_test_shards(tmp_path / name, shards=1, samples_per_shard=6,
                          labels=lambda i, count=count: i % count)  # fmt: skip
    message = r"--train has 3 class folders with names and --test 2 classes by number"
    with pytest.raises(ConfigError, match=message):
        labelled_pair(folder, [str(tmp_path / "two")], size=8)
    with pytest.raises(ConfigError, match=r"--test has 3 class folders.*--train 2 classes"):
        labelled_pair([str(tmp_path / "two")], folder, size=8)
    sides = labelled_pair(folder, [str(tmp_path / "three")], size=8)
    assert sides[1].class_names == ("auk", "tit", "wren")


def test_the_probe_matches_its_sides_and_names_its_own_options(tmp_path):
    train = image_folder(tmp_path / "train", {"0": 10, "1": 20, "2": 30})
    test = image_folder(tmp_path / "test", {"0": 10, "2": 30})

    def config(test):
        return RunConfig(run=str(tmp_path / "run"), probe_train=tuple(train),
                         probe_test=tuple(test), probe=ProbeConfig(size=16))  # fmt: skip

    held = load_probe_images(config(test))
    for side in held:
        assert side.images[:, 0, 0, 0].tolist() == [10 + 10 * label for label in side.labels]
    strange = image_folder(tmp_path / "strange", {"gull": 1})
    with pytest.raises(ConfigError, match=r"--probe-test: the classes differ.*no folder gull"):
        load_probe_images(config(strange))
    write_test_shards(tmp_path / "other", shards=1, samples_per_shard=6, labels=lambda i: 3 + i)
    with pytest.raises(ConfigError, match="--probe-test 9 classes by number"):
        load_probe_images(config([str(tmp_path / "other")]))


def test_a_small_sample_of_many_classes_may_lack_some_by_chance(tmp_path):
    train = write_test_shards(tmp_path / "a", shards=1, samples_per_shard=80, size=(8, 8),
                              labels=lambda i: i)[0]  # fmt: skip
    test = write_test_shards(tmp_path / "b", shards=1, samples_per_shard=100, size=(8, 8),
                             labels=lambda i: i)[0]  # fmt: skip
    assert labelled_pair([str(train)], [str(test)], size=8, limit=100)[0].num_classes == 100
    with pytest.raises(ConfigError, match="20 never occur in --train"):
        labelled_pair([str(train)], [str(test)], size=8)


def test_images_on_both_sides_are_warned_of(tmp_path, caplog):
    train = image_folder(tmp_path / "train", {"auk": 1, "tit": 2})
    test = image_folder(tmp_path / "test", {"auk": 1, "tit": 2})
    labelled_pair(train, test, size=8)
    assert caplog.text == "", "equal bytes in other files are no proof"
    (tmp_path / "test" / "auk" / "linked.png").symlink_to(tmp_path / "train" / "auk" / "1.png")
    labelled_pair(train, test, size=8)
    assert "1 of the 7 images of --test are in --train too" in caplog.text
    caplog.clear()
    tar = write_test_shards(tmp_path / "x", shards=1, samples_per_shard=6, labels=lambda i: i % 2)
    (tmp_path / "y").symlink_to(tmp_path / "x")
    labelled_pair([str(tar[0])], [str(tmp_path / "y")], size=8, flags=("--a", "--b"))
    assert "6 of the 6 images of --b are in --a too" in caplog.text
    caplog.clear()
    shutil.copytree(tmp_path / "x", tmp_path / "z")
    labelled_pair([str(tar[0])], [str(tmp_path / "z")], size=8)
    assert caplog.text == ""
