"""Shards are whole or absent, repeatable, and read back by webdataset and by us."""

import hashlib
import json
import os
import tarfile

import pytest
import webdataset as wds

from streams.config import LimitsConfig
from streams.pack import pack_folder, write_shard
from streams.reader import ShardReader
from streams.sources import DirectorySource
from streams.testing import jpeg_bytes, shard_of

SAMPLES = [(f"cam/{i}", {"jpg": jpeg_bytes(i), "cls": str(i).encode()}) for i in range(5)]


def read(path):
    reader = ShardReader(shard_of(path), limits=LimitsConfig())
    samples = list(reader)
    assert reader.fault is None
    return samples


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


# -- write_shard -----------------------------------------------------------------------------------


def test_the_manifest_tells_the_truth(tmp_path):
    path = tmp_path / "a.tar"
    manifest = write_shard(path, SAMPLES)
    data = path.read_bytes()
    assert manifest == json.loads((tmp_path / "a.tar.json").read_text())
    assert manifest == {
        "format": 1, "samples": 5, "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(), "labels": True,
    }  # fmt: skip
    assert visible(tmp_path) == ["a.tar", "a.tar.json"]


def test_labels_means_all_of_them(tmp_path):
    some = [*SAMPLES, ("x", {"jpg": jpeg_bytes(0)})]
    assert write_shard(tmp_path / "a.tar", some)["labels"] is False


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its file open
def test_webdataset_reads_it_back(tmp_path):
    long = [("k" * 150 + "/é" * 60, {"jpg": b"x", "json": b"{}"})]
    path = tmp_path / "a.tar"
    write_shard(path, SAMPLES + long)
    read_back = [
        (s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in wds.WebDataset(str(path), shardshuffle=False)
    ]
    assert read_back == SAMPLES + long


def test_our_reader_reads_it_back(tmp_path):
    write_shard(tmp_path / "a.tar", SAMPLES)
    assert [(s.key, {"jpg": s.image, "cls": str(s.label).encode()})
            for s in read(tmp_path / "a.tar")] == SAMPLES  # fmt: skip


def test_the_same_samples_give_the_same_bytes(tmp_path):
    first = write_shard(tmp_path / "a.tar", SAMPLES)
    second = write_shard(tmp_path / "b.tar", iter(SAMPLES))
    assert first["sha256"] == second["sha256"]
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "a.tar"
    write_shard(path, SAMPLES)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_shard(path, SAMPLES[:1])
    assert path.read_bytes() == before


def test_no_half_shard_is_ever_visible(tmp_path):
    path = tmp_path / "a.tar"
    source = DirectorySource("s", str(tmp_path), settle_s=0)

    def samples():
        for sample in SAMPLES:
            assert not path.exists()
            assert source.poll() == []
            yield sample

    write_shard(path, samples())
    assert len(source.poll()) == 1


def test_a_crash_leaves_nothing(tmp_path):
    def samples():
        yield SAMPLES[0]
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        write_shard(tmp_path / "a.tar", samples())
    assert visible(tmp_path) == []


def test_a_shard_appears_with_its_manifest_already_there(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    order = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(str(b)) or real(a, b))
    write_shard(path, SAMPLES)
    assert order == [f"{path}.json", str(path)]


@pytest.mark.parametrize(
    ("key", "members", "words"),
    [
        ("a.b", {"jpg": b"x"}, "no dot"),
        ("", {"jpg": b"x"}, "plain relative name"),
        ("/a", {"jpg": b"x"}, "plain relative name"),
        ("a/", {"jpg": b"x"}, "plain relative name"),
        ("../a", {"jpg": b"x"}, "plain relative name"),
        ("__meta__", {"jpg": b"x"}, "begins with no _"),
        ("a\nb", {"jpg": b"x"}, "plain relative name"),
        ("a\udcff", {"jpg": b"x"}, "plain relative name"),
        ("a", {"JPG": b"x"}, "capital"),
        ("a", {"a/jpg": b"x"}, "slash"),
        ("a", {"__key__": b"x"}, "suffix"),
        ("a", {}, "no members"),
    ],
)
def test_samples_that_webdataset_would_misread_are_refused(tmp_path, key, members, words):
    with pytest.raises(ValueError, match=words):
        write_shard(tmp_path / "a.tar", [SAMPLES[0], (key, members)])
    assert visible(tmp_path) == []


def test_repeated_keys_and_empty_shards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        write_shard(tmp_path / "a.tar", [SAMPLES[0], SAMPLES[1], SAMPLES[0]])
    with pytest.raises(ValueError, match="at least one sample"):
        write_shard(tmp_path / "a.tar", [])
    assert visible(tmp_path) == []


# -- pack_folder -----------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """Ten images in the folders cat and dog, and what lies about in real folders."""
    root = tmp_path / "images"
    for i in range(10):
        folder = root / ("dog" if i % 2 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.x.{'JPEG' if i < 5 else 'jpg'}").write_bytes(jpeg_bytes(i))
    (root / "cat/broken.jpg").write_bytes(jpeg_bytes(0)[:300])
    (root / "cat/notes.txt").write_text("hello")
    (root / "dog/.DS_Store").write_bytes(b"x")
    (root / "dog/small.png").write_bytes(jpeg_bytes(0, (4, 4)))
    return root


def test_a_folder_becomes_shards(images, tmp_path):
    out = tmp_path / "deep/out"
    report = pack_folder(images, out, samples_per_shard=4)
    assert visible(out) == [
        "classes.json", *(f"shard-{i:06d}.tar{end}" for i in range(3) for end in ("", ".json"))
    ]  # fmt: skip
    samples = [sample for path in report.shards for sample in read(path)]
    assert report.samples == len(samples) == 10
    assert [len(read(path)) for path in report.shards] == [4, 4, 2]
    labels = {sample.image: sample.label for sample in samples}
    assert labels == {jpeg_bytes(i): i % 2 for i in range(10)}
    assert json.loads((out / "classes.json").read_text()) == {"0": "cat", "1": "dog"}
    assert report.classes == ("cat", "dog")
    assert len({sample.key for sample in samples}) == 10


def test_what_is_left_out_is_reported(images, tmp_path):
    report = pack_folder(images, tmp_path / "out")
    assert [name for name, _ in report.rejected] == [
        "cat/broken.jpg", "cat/notes.txt", "dog/.DS_Store", "dog/small.png",
    ]  # fmt: skip
    reasons = [reason for _, reason in report.rejected]
    for reason, words in zip(reasons, ("corrupt", "suffix", "hidden", "too_small"), strict=True):
        assert words in reason
    text = str(report)
    assert "10 images in 1 shards" in text
    assert "4 files left out" in text
    assert "cat/broken.jpg: corrupt" in text


def test_the_order_is_shuffled_by_the_seed(images, tmp_path):
    def order(out, seed):
        report = pack_folder(images, tmp_path / out, seed=seed)
        return [sample.image for path in report.shards for sample in read(path)]

    first = order("a", 0)
    assert order("b", 0) == first
    assert order("c", 1) != first
    assert sorted(order("d", 1)) == sorted(first)


def test_images_without_folders_have_no_labels(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / f"in/{i}.jpg").write_bytes(jpeg_bytes(i))
    report = pack_folder(tmp_path / "in", tmp_path / "out")
    assert report.classes == ()
    assert [sample.label for sample in read(report.shards[0])] == [None] * 3
    assert not (tmp_path / "out/classes.json").exists()


def test_classes_can_be_given(images, tmp_path):
    report = pack_folder(images, tmp_path / "out", classes=["dog", "bird", "cat"])
    assert {sample.label for sample in read(report.shards[0])} == {0, 2}
    with pytest.raises(ValueError, match="'dog' is not among the classes"):
        pack_folder(images, tmp_path / "out2", classes=["cat"])


def test_mistakes_are_named(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        pack_folder(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image in .*\.jpeg, \.jpg"):
        pack_folder(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.jpg").write_bytes(b"hello")
    with pytest.raises(ValueError, match="none of the 1 images"):
        pack_folder(tmp_path / "bad", tmp_path / "out")
    with pytest.raises(ValueError, match="samples_per_shard"):
        pack_folder(images, tmp_path / "out", samples_per_shard=0)
    for prefix in ("", "_a", "a/b", "*"):
        with pytest.raises(ValueError, match="prefix"):
            pack_folder(images, tmp_path / "out", prefix=prefix)


def test_existing_shards_are_not_mixed_with_new_ones(images, tmp_path):
    pack_folder(images, tmp_path / "out", prefix="train")
    with pytest.raises(ValueError, match="already has shards named train"):
        pack_folder(images, tmp_path / "out", prefix="train")
    pack_folder(images, tmp_path / "out", prefix="val")
