"""What is damaged, unlabelled, hidden or out of reach is told, and never judged on in silence."""

import os

import pytest

from online_swav.errors import ConfigError
from online_swav.evaluation.data import labelled_images
from streams.pack import write_shard
from streams.testing import jpeg_bytes, truncate, write_test_shards


def image_folder(folder, classes):
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(jpeg_bytes(number))
    return [str(folder)]


def test_a_shard_that_breaks_off_is_told(tmp_path, caplog):
    (tar,) = write_test_shards(tmp_path, shards=1, samples_per_shard=6, labels=lambda i: i)
    labelled_images([str(tar)], size=16)
    assert caplog.text == ""
    truncate(tar, tar.stat().st_size // 2)
    labelled_images([str(tar)], size=16)
    assert caplog.text.count("passed over in") == 1
    assert f"1 shards are damaged, the first: {tar}" in caplog.text


def test_unlabelled_and_unusable_samples_are_counted(tmp_path, caplog):
    write_shard(tmp_path / "a.tar", [
        ("0", {"jpg": jpeg_bytes(0), "cls": b"0"}), ("1", {"jpg": jpeg_bytes(1)}),
        ("2", {"jpg": jpeg_bytes(2)}), ("3", {"cls": b"1"}),
    ])  # fmt: skip
    assert len(labelled_images([str(tmp_path)], size=16)) == 1
    (line,) = caplog.text.splitlines()
    assert "2 images without a label" in line
    assert "1 samples that cannot be used (no_image 1)" in line


def test_linked_folders_are_entered_and_loops_end(tmp_path, caplog):
    image_folder(tmp_path / "elsewhere", {"wren": 2})
    places = image_folder(tmp_path / "x", {"auk": 3})
    (tmp_path / "x" / "wren").symlink_to(tmp_path / "elsewhere" / "wren")
    (tmp_path / "x" / "auk" / "up").symlink_to(tmp_path / "x")
    found = labelled_images(places, size=16)
    assert found.class_names == ("auk", "wren")
    assert found.labels.bincount().tolist() == [3, 2]
    assert caplog.text == ""


def test_loose_images_and_links_to_nothing_are_counted(tmp_path, caplog):
    places = image_folder(tmp_path, {"auk": 2})
    (tmp_path / "loose.jpg").write_bytes(jpeg_bytes(0))
    (tmp_path / "auk" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    assert len(labelled_images(places, size=16)) == 2
    (line,) = caplog.text.splitlines()
    assert "1 images lie beside the class folders" in line
    assert "1 images cannot be opened, the first: " in line


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, caplog, monkeypatch):
    places = image_folder(tmp_path, {"auk": 2, "wren": 1})
    scandir = os.scandir

    def refused(path):
        if os.fspath(path).endswith("wren"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)  # root may list everything
    assert labelled_images(places, size=16).class_names == ("auk",)
    assert f"1 folders cannot be listed, the first: {tmp_path}/wren: Permission" in caplog.text


def test_a_tar_among_the_images_of_a_folder_is_named(tmp_path, caplog):
    places = image_folder(tmp_path, {"auk": 2})
    write_test_shards(tmp_path / "auk", shards=1, samples_per_shard=3)
    with pytest.raises(ConfigError, match="no labelled image in"):
        labelled_images(places, size=16)
    assert "shard-000000.tar), so it is read as shards; its 2 images" in caplog.text
