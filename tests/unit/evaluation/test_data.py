"""Labelled images from shards and folders: what is found, in what order, and what is refused."""

import io
import json

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from online_swav.errors import ConfigError
from online_swav.evaluation.data import OFFICIAL_MARGIN, central_square, labelled_images
from online_swav.evaluation.pairs import labelled_pair
from streams.errors import DecodeError
from streams.pack import write_shard
from streams.testing import jpeg_bytes, truncate, write_test_shards


def shards(folder, **options):
    write_test_shards(folder, **{"shards": 1, "samples_per_shard": 6, "seed": 0} | options)
    return [str(folder)]


def image_folder(folder, classes):
    for name, count in classes.items():
        (folder / name / "deep").mkdir(parents=True)
        for number in range(count):
            (folder / name / "deep" / f"{number}.jpg").write_bytes(jpeg_bytes(number))
    return [str(folder)]


def several(folder, lists):
    folder.mkdir()
    write_shard(folder / "a.tar", [
        (f"{number:03d}", {"jpg": jpeg_bytes(number),
                           "json": json.dumps({"labels": labels}).encode()})
        for number, labels in enumerate(lists)
    ])  # fmt: skip
    return [str(folder)]


def test_labelled_images_come_from_all_shards(tmp_path):
    places = shards(tmp_path, shards=3, labels=lambda i: i % 2)
    found = labelled_images(places, size=16, limit=7)
    images = found.held()
    assert images.images.shape == (7, 3, 16, 16)
    assert images.labels.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert [p.path[-8:] for p in found.places] == ["0000.tar"] * 3 + ["0001.tar"] * 2 + [
        "0002.tar"] * 2  # fmt: skip
    assert len(labelled_images(places, size=16)) == 18
    overlapping = [*places, str(tmp_path / "*.tar")]
    assert len(labelled_images(overlapping, size=16)) == 18


def test_a_picture_is_read_where_it_lies_in_the_tar(tmp_path):
    found = labelled_images(shards(tmp_path, labels=lambda i: i, size=(40, 64)), size=20)
    assert found.class_names == ("0", "1", "2", "3", "4", "5")
    jpeg = found.places[4].read()
    assert jpeg.startswith(b"\xff\xd8")
    assert found.picture(4).shape == (3, 40, 64)
    (squares,) = found.squares([4, 1])
    assert squares.indices.tolist() == [4, 1]
    assert torch.equal(squares.images[0], found.held().images[4])
    assert torch.equal(found.subset([5, 4]).held().images[1], squares.images[0])


def test_a_folder_is_a_class_and_a_limit_takes_of_each(tmp_path):
    places = image_folder(tmp_path, {"wren": 5, "auk": 9, "tit": 1})
    (tmp_path / "wren" / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "wren" / "notes.txt").write_bytes(b"x")
    found = labelled_images(places, size=16)
    assert found.class_names == ("auk", "tit", "wren")
    assert torch.bincount(found.labels).tolist() == [9, 1, 5]
    assert labelled_images(places, size=16, limit=6).labels.bincount().tolist() == [3, 1, 2]


def test_a_picture_that_does_not_decode_is_left_out(tmp_path):
    places = image_folder(tmp_path, {"a": 3, "b": 2})
    broken = tmp_path / "a" / "deep" / "0.jpg"
    broken.write_bytes(b"\xff\xd8\xff" + bytes(99))
    found = labelled_images(places, size=16)
    assert len(found) == 5
    with pytest.raises(DecodeError):
        found.picture(0)
    assert found.held().labels.tolist() == [1, 0, 1, 0]  # by turns: a b a b a
    (tmp_path / "b" / "deep" / "0.jpg").write_bytes(jpeg_bytes(7, (60, 60)))
    assert found.held().labels.tolist() == [0, 1, 0], "another picture than the one that was listed"
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(
        ConfigError, match=r"none of the 5 images .*; the first, .*/0.jpg: not a JPEG"
    ):
        labelled_images(places, size=16).held()


def test_an_image_may_have_several_labels(tmp_path):
    found = labelled_images(several(tmp_path / "x", [[0, 2], [], [2, 2], ["cat"], [1]]), size=16)
    assert found.multi_label
    assert found.labels.tolist() == [
        [True, False, True], [False, False, False], [False, False, True], [False, True, False]
    ]  # fmt: skip
    assert found.num_classes == 3


def test_the_digest_names_images_and_labels(tmp_path):
    places = shards(tmp_path / "a", labels=lambda i: i)
    found = labelled_images(places, size=16)
    assert labelled_images(places, size=32).digest == found.digest
    assert found.subset([0, 1]).digest != found.digest
    assert labelled_images(places, size=16, limit=5).digest != found.digest
    other = shards(tmp_path / "b", labels=lambda _i: 0)
    assert labelled_images(other, size=16).digest != found.digest


def test_both_sides_get_the_classes_of_the_larger_one(tmp_path):
    train = shards(tmp_path / "train", labels=lambda i: i)
    test = shards(tmp_path / "test", labels=lambda i: i % 3)
    sides = labelled_pair(train, test, size=16)
    assert [side.num_classes for side in sides] == [6, 6]
    train = several(tmp_path / "t", [[0, 3], [1], [2]])
    sides = labelled_pair(train, several(tmp_path / "u", [[1]]), size=16)
    assert [tuple(side.labels.shape) for side in sides] == [(3, 4), (1, 4)]


def test_class_folders_are_matched_by_name(tmp_path):
    train = image_folder(tmp_path / "train", {"auk": 2, "tit": 2, "wren": 2})
    test = image_folder(tmp_path / "test", {"tit": 1, "wren": 1})
    sides = labelled_pair(train, test, size=16)
    assert sides[1].labels.tolist() == [1, 2]
    strange = image_folder(tmp_path / "strange", {"tit": 1, "gull": 1})
    with pytest.raises(ConfigError, match=r"--test: the classes differ.*no folder gull"):
        labelled_pair(train, strange, size=16)


def test_classes_that_training_never_saw_are_refused(tmp_path):
    train = shards(tmp_path / "train", labels=lambda i: i % 2)
    test = shards(tmp_path / "test", labels=lambda i: i % 3)
    with pytest.raises(ConfigError, match=r"--train has 2 and --test 3.*label 2"):
        labelled_pair(train, test, size=16)
    with pytest.raises(ConfigError, match="the limit is too small"):
        labelled_pair(train, test, size=16, limit=6)
    many = shards(tmp_path / "many", samples_per_shard=40, labels=lambda i: int(i == 39))
    with pytest.raises(ConfigError, match="the classes differ"):
        labelled_pair(shards(tmp_path / "one", labels=lambda _i: 0), many, size=16)
    sides = labelled_pair(shards(tmp_path / "two", labels=lambda _i: 0), many, size=16, limit=40)
    assert sides[0].num_classes == 2, "a sample may lack a rare class"
    with pytest.raises(ConfigError, match=r"--test has one label.*--train has several"):
        labelled_pair(several(tmp_path / "x", [[0], [1]]), train, size=16)


def test_what_is_missing_is_named(tmp_path):
    def refusal(places, **options):
        with pytest.raises(ConfigError) as caught:
            labelled_images(places, **{"size": 16} | options)
        message = str(caught.value)
        assert "\n" not in message
        return message

    assert "does not exist" in refusal([str(tmp_path / "no" / "x.tar")])
    (tmp_path / "empty").mkdir()
    assert "neither shards (.tar) nor images" in refusal([str(tmp_path / "empty")])
    assert "matches no shard" in refusal([str(tmp_path / "empty" / "*.tar")])
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "a.jpg").write_bytes(jpeg_bytes(0))
    assert "has images and no labels: put the images of each class" in refusal([str(loose)])
    assert "only shards can be given" in refusal([str(loose), str(tmp_path)])
    unlabelled = shards(tmp_path / "unlabelled")
    assert "6 images without a label" in refusal(unlabelled)
    assert "KEY.cls" in refusal(unlabelled)
    labelled = shards(tmp_path / "labelled", labels=lambda i: i)
    assert "limit must be at least 1" in refusal(labelled, limit=0)
    assert "--size must be at least 1" in refusal(labelled, size=0)
    assert "one label (KEY.cls)" in refusal([*labelled, *several(tmp_path / "x", [[1]])])
    assert "every list of labels is empty" in refusal(several(tmp_path / "y", [[], []]))
    assert "is too large" in refusal(shards(tmp_path / "z", labels=lambda _i: 10**9))
    assert "no place was given" in refusal([])


def test_a_shard_that_breaks_off_gives_what_is_whole(tmp_path):
    (tar,) = write_test_shards(tmp_path / "a", shards=1, samples_per_shard=6, labels=lambda i: i)
    truncate(tar, tar.stat().st_size // 2)
    assert 0 < len(labelled_images([str(tar)], size=16)) < 6
    tar.write_bytes(b"x" * 600)
    with pytest.raises(ConfigError, match="is not a tar"):
        labelled_images([str(tar)], size=16)


def test_grey_and_transparent_pictures_become_three_colours(tmp_path):
    for name, mode in (("a", "L"), ("b", "RGBA")):
        (tmp_path / name).mkdir()
        buffer = io.BytesIO()
        Image.new(mode, (20, 30), 128 if mode == "L" else (9, 9, 9, 0)).save(buffer, "PNG")
        (tmp_path / name / "x.png").write_bytes(buffer.getvalue())
    images = labelled_images([str(tmp_path)], size=8).held().images
    assert images[:, :, 0, 0].tolist() == [[128] * 3, [255] * 3]


def test_the_official_margin_leaves_the_border_away(tmp_path):
    pixels = torch.full((256, 256, 3), 255, dtype=torch.uint8)
    pixels[16:-16, 16:-16] = 7
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels.numpy()).save(tmp_path / "a" / "x.png")
    whole = labelled_images([str(tmp_path)], size=224)
    official = labelled_images([str(tmp_path)], size=224, margin=OFFICIAL_MARGIN)
    assert (whole.view, official.view) == ("224 px", "224 px of 256")
    assert official.held().images.unique().tolist() == [7]
    assert 255 in whole.held().images


def test_a_ribbon_is_cut_before_it_is_resized(monkeypatch):
    sides = []
    resize = transforms.resize

    def noted(image, *arguments, **options):
        sides.append(max(image.shape))
        return resize(image, *arguments, **options)

    monkeypatch.setattr(transforms, "resize", noted)
    ribbon = torch.zeros(3, 2, 50_000, dtype=torch.uint8)
    ribbon[..., 24_998:25_002] = 200
    assert central_square(ribbon, 8).float().mean() > 100, "the centre is looked at"
    assert central_square(torch.zeros(3, 40, 30, dtype=torch.uint8), 8).shape == (3, 8, 8)
    assert sides == [32, 40]
