"""What the reader makes of whole, damaged and hostile tars."""

import gzip
import io
import os
import tarfile

import pytest
import webdataset as wds
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from streams.config import LimitsConfig
from streams.errors import ShardError
from streams.reader import RawSample, RejectedSample, ShardReader, split_name
from streams.testing import jpeg_bytes, shard_of, truncate, write_test_shards
from tests.builders import gnu_sparse, header, patch_header, tar_of

LIMITS = LimitsConfig(max_member_bytes=50_000)
JPEG = jpeg_bytes(0)


def read(path, **options):
    reader = ShardReader(shard_of(path), limits=LIMITS, **options)
    return list(reader), reader


def brief(samples):
    return [(s.index, s.key, s.reason if isinstance(s, RejectedSample) else "ok") for s in samples]


def only_reject(samples):
    (sample,) = samples
    assert isinstance(sample, RejectedSample)
    return sample


def pairs(num):
    """Members of `num` samples: an image and a label each."""
    return [
        (f"{i:04d}.{suffix}", data)
        for i in range(num)
        for suffix, data in (("jpg", jpeg_bytes(i)), ("cls", str(i).encode()))
    ]


# -- whole tars ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_every_tar_format(tmp_path, format):
    long = "d" * 90 + "/" + "k" * (60 if format == tarfile.USTAR_FORMAT else 300)
    samples, reader = read(
        tar_of(tmp_path / "a.tar", [*pairs(3), (f"{long}.jpg", JPEG)], format=format)
    )
    assert [(s.index, s.label) for s in samples] == [(0, 0), (1, 1), (2, 2), (3, None)]
    assert [s.image for s in samples] == [jpeg_bytes(0), jpeg_bytes(1), jpeg_bytes(2), JPEG]
    assert samples[3].key == long[:255]
    assert (reader.num_samples, reader.fault, reader.skipped_members) == (4, None, 0)


@given(st.text(st.sampled_from("ab./\\\n\u00e9 "), max_size=12))
@example("a/.jpg")
@example("x.y/.jpg")
@example("a.b/c.seg.png")
def test_names_are_split_as_webdataset_does(name):
    assert split_name(name) == base_plus_ext(name)


def test_reads_what_webdataset_writes(tmp_path):
    with wds.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(8):
            writer.write({"__key__": f"cam/{i}", "jpg": jpeg_bytes(i), "cls": i, "json": {"i": i}})
    for shard in (0, 1):
        samples, reader = read(tmp_path / f"{shard:03d}.tar")
        numbers = range(4 * shard, 4 * shard + 4)
        assert [s.key for s in samples] == [f"cam/{i}" for i in numbers]
        assert [s.image for s in samples] == [jpeg_bytes(i) for i in numbers]
        assert [s.label for s in samples] == list(numbers)
        assert reader.fault is None


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its file open
def test_groups_as_webdataset_does(tmp_path):
    names = ["a.json", "a.jpg", "README", "a.txt", "x.y/b.jpg", "__meta__", ".c.jpg",
             "__dir__/d.jpg", "e.JPG", "b.jpg", "a.jpg"]  # fmt: skip
    path = tar_of(tmp_path / "a.tar", [(name, JPEG) for name in names])
    dataset = wds.WebDataset(str(path), shardshuffle=False)
    samples, reader = read(path)
    assert [s.key for s in samples] == [s["__key__"] for s in dataset]
    assert [s.key for s in samples] == ["a", "x.y/b", "e", "b", "a"]
    assert reader.skipped_members == 4


def test_no_samples_is_no_fault(tmp_path):
    samples, reader = read(tar_of(tmp_path / "a.tar", []))
    assert (samples, reader.num_samples, reader.fault) == ([], 0, None)


def test_one_closing_block_is_enough(tmp_path):
    path = tar_of(tmp_path / "a.tar", [("a.jpg", bytes([1]) * 512)])
    truncate(path, 512 + 512 + 512 + 100)
    samples, reader = read(path)
    assert brief(samples) == [(0, "a", "ok")]
    assert reader.fault is None


def test_skipped_samples_are_counted_but_not_read(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "a.tar", pairs(6))
    read_bytes = []
    real = ShardReader.__iter__.__globals__["_read"]
    monkeypatch.setitem(
        ShardReader.__iter__.__globals__,
        "_read",
        lambda file, member: read_bytes.append(member.name) or real(file, member),
    )
    samples, reader = read(path, skip=((0, 2), (4, 6)))
    assert [s.index for s in samples] == [2, 3]
    assert sorted(read_bytes) == ["0002.cls", "0002.jpg", "0003.cls", "0003.jpg"]
    assert reader.num_samples == 6


def test_reading_again_starts_again(tmp_path):
    reader = ShardReader(shard_of(tar_of(tmp_path / "a.tar", pairs(3))), limits=LIMITS)
    assert list(reader) == list(reader)
    assert reader.num_samples == 3


# -- damage ----------------------------------------------------------------------------------------

SECOND = 3 * 512 + len(JPEG) // 512 * 512 + 512  # header of the second sample of `two`


@pytest.fixture
def two(tmp_path):
    """Two samples of an image and a label; the second begins at byte SECOND."""
    members = [("a.jpg", JPEG), ("a.cls", b"1"), ("b.jpg", JPEG), ("b.cls", b"2")]
    path = tar_of(tmp_path / "a.tar", members)
    with tarfile.open(path) as tar:
        assert tar.getmember("b.jpg").offset == SECOND
    return path


@pytest.mark.parametrize(
    ("at", "fates", "words"),
    [
        (512 + 20, ["truncated"], "inside a member"),
        (SECOND - 1024, ["truncated"], "without the closing blocks"),
        (SECOND - 700, ["truncated"], "inside a header"),
        (SECOND - 512 + 1, ["truncated"], "without the closing blocks"),
        (SECOND, ["truncated"], "without the closing blocks"),
        (SECOND + 300, ["truncated"], "inside a header"),
        (SECOND + 512, ["ok", "truncated"], "inside a member"),
        (SECOND + 600, ["ok", "truncated"], "inside a member"),
        (2 * SECOND, ["ok", "truncated"], "without the closing blocks"),
        (2 * SECOND + 100, ["ok", "truncated"], "inside a header"),
        (2 * SECOND + 512, ["ok", "ok"], None),
        (2 * SECOND + 1500, ["ok", "ok"], None),
    ],
)
def test_a_cut_never_yields_a_half_sample(two, at, fates, words):
    samples, reader = read(truncate(two, at))
    assert [fate for _, _, fate in brief(samples)] == fates
    assert reader.num_samples == len(fates)
    if words is None:
        assert reader.fault is None
    else:
        assert words in reader.fault
        assert str(at) in reader.fault


def test_every_cut_keeps_the_promise(two):
    whole = two.read_bytes()
    for at in range(512, len(whole), 173):
        two.write_bytes(whole[:at])
        samples, reader = read(two)
        good = [s for s in samples if isinstance(s, RawSample)]
        assert all(s.image == JPEG and s.label == s.index + 1 for s in good)
        assert (reader.fault is None) == (at > 2 * SECOND + 511)
        assert reader.num_samples == len(samples)


def test_a_skipped_sample_is_not_reported_as_truncated(two):
    samples, reader = read(truncate(two, SECOND + 600), skip=((1, 2),))
    assert brief(samples) == [(0, "a", "ok")]
    assert reader.num_samples == 2
    assert reader.fault is not None


def test_a_flipped_header_is_noticed(two):
    data = bytearray(two.read_bytes())
    data[SECOND + 3] ^= 0xFF
    two.write_bytes(data)
    samples, reader = read(two)
    assert brief(samples) == [(0, "a", "truncated")]
    assert f"header at byte {SECOND} is damaged" in reader.fault


def test_a_cut_pax_header_is_noticed(tmp_path):
    path = tar_of(
        tmp_path / "a.tar",
        [("a.jpg", JPEG), ("é" * 200 + ".jpg", JPEG)],
        format=tarfile.PAX_FORMAT,
    )
    second = 512 + -(-len(JPEG) // 512) * 512
    samples, reader = read(truncate(path, second + 600))
    assert brief(samples) == [(0, "a", "truncated")]
    assert "inside a header" in reader.fault


def test_joined_tars_are_a_fault(two, tmp_path):
    other = tar_of(tmp_path / "b.tar", [("z.jpg", JPEG)])
    two.write_bytes(two.read_bytes() + other.read_bytes())
    samples, reader = read(two)
    assert brief(samples) == [(0, "a", "ok"), (1, "b", "ok")]
    assert "after the closing blocks" in reader.fault


def test_no_chimera_across_shards(tmp_path):
    first = tar_of(tmp_path / "1.tar", [("k.jpg", JPEG), ("k.cls", b"1")])
    second = tar_of(tmp_path / "2.tar", [("k.cls", b"2"), ("k.jpg", jpeg_bytes(9))])
    truncate(first, 512 + -(-len(JPEG) // 512) * 512)
    (cut,), _ = read(first)
    (whole,), _ = read(second)
    assert cut.reason == "truncated"
    assert (whole.label, whole.image) == (2, jpeg_bytes(9))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, world\n", "13 bytes are less than one header"),
        (b"lorem ipsum " * 100, "is not a tar"),
        (b"\n<html><body>404 Not Found</body></html>" * 30, "HTML"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
        (gzip.compress(b"x" * 5000), "gunzip"),
    ],
)
def test_what_is_no_tar_says_what_it_looks_like(tmp_path, data, words):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(ShardError, match=words) as caught:
        read(path)
    assert caught.value.reason == "not_a_tar"
    assert str(path) in str(caught.value)


def test_a_shard_that_changes_while_it_is_read_is_a_fault(two):
    reader = ShardReader(shard_of(two), limits=LIMITS)
    samples = iter(reader)
    next(samples)
    os.utime(two, ns=(0, 0))
    assert len(list(samples)) == 1
    assert reader.fault == "changed while it was read"


def test_a_shard_that_shrinks_while_it_is_read(tmp_path):
    path = write_test_shards(tmp_path, shards=1, samples_per_shard=40, size=(128, 128))[0]
    reader = ShardReader(shard_of(path), limits=LIMITS)
    samples = iter(reader)
    first = next(samples)
    os.truncate(path, path.stat().st_size // 2)
    rest = list(samples)
    assert isinstance(first, RawSample)
    assert rest[-1].reason == "truncated"
    assert all(isinstance(sample, RawSample) for sample in rest[:-1])
    assert reader.fault is not None


def test_a_shard_deleted_while_it_is_read_is_read_to_its_end(two):
    samples = iter(ShardReader(shard_of(two), limits=LIMITS))
    next(samples)
    two.unlink()
    assert brief(samples) == [(1, "b", "ok")]


# -- samples that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "reason", "words"),
    [
        (["a.txt", "a.json"], "no_image", ".txt, .json"),
        (["a.JPG", "a.jpg"], "ambiguous", "case"),
        (["a.jpg", "a.png"], "ambiguous", ".jpg and .png"),
        (["img_1.0.jpg", "img_1.5.jpg"], "ambiguous", "first dot"),
        (["a.jpg", "a.txt", "a.txt"], "ambiguous", ".txt"),
    ],
)
def test_samples_without_one_image(tmp_path, members, reason, words):
    samples, reader = read(tar_of(tmp_path / "a.tar", [(name, JPEG) for name in members]))
    sample = only_reject(samples)
    assert (sample.reason, reader.num_samples, reader.fault) == (reason, 1, None)
    assert words in sample.detail
    assert sample.data == (None if reason == "no_image" else JPEG)


def test_the_plain_suffix_is_the_picture(tmp_path):
    members = [("a.mask.png", b"mask"), ("a.jpg", JPEG), ("a.depth.png", b"depth")]
    (sample,), _ = read(tar_of(tmp_path / "a.tar", members))
    assert (sample.suffix, sample.image) == ("jpg", JPEG)


def test_a_lone_dotted_suffix_is_the_picture(tmp_path):
    (sample,), _ = read(tar_of(tmp_path / "a.tar", [("img.0.JPG", JPEG)]))
    assert (sample.key, sample.suffix) == ("img", "0.jpg")


def test_a_repeated_key_that_is_not_adjacent_makes_two_samples(tmp_path):
    path = tar_of(tmp_path / "a.tar", [(f"{key}.jpg", JPEG) for key in "aba"])
    assert brief(read(path)[0]) == [(0, "a", "ok"), (1, "b", "ok"), (2, "a", "ok")]


def test_large_and_empty_images_are_rejected(tmp_path):
    members = [("a.jpg", bytes(50_001)), ("b.jpg", b""), ("c.jpg", JPEG)]
    samples, _ = read(tar_of(tmp_path / "a.tar", members))
    assert brief(samples) == [(0, "a", "too_large"), (1, "b", "corrupt"), (2, "c", "ok")]
    assert "50001 bytes" in samples[0].detail


def test_large_members_that_are_no_image_do_no_harm(tmp_path):
    members = [("a.mp4", bytes(60_000)), ("a.pkl", b"cos\nsystem\n"), ("a.jpg", JPEG)]
    (sample,), _ = read(tar_of(tmp_path / "a.tar", members))
    assert sample.image == JPEG


@pytest.mark.parametrize(
    ("data", "label"),
    [(b"7", 7), (b" 12\n", 12), (b"", None), (b"cat", None), (b"-1", None), (b"9" * 60, None),
     (b"1" * 65, None), (b"\xff", None)],
)  # fmt: skip
def test_labels(tmp_path, data, label):
    (sample,), _ = read(tar_of(tmp_path / "a.tar", [("a.jpg", JPEG), ("a.cls", data)]))
    assert sample.label == label


@pytest.mark.parametrize(
    ("data", "labels"),
    [(b'{"labels": [7, 2, 7]}', (2, 7)), (b'{"labels": []}', ()), (b"{}", None), (b"[1]", None),
     (b'{"labels": ["cat"]}', None), (b'{"labels": [true]}', None), (b'{"labels": [-1]}', None),
     (b'{"labels": 3}', None), (b"\xff", None), (b"[" * 9000, None), (b" " * 70_000, None)],
)  # fmt: skip
def test_several_labels_are_read_when_asked_for(tmp_path, data, labels):
    tar = tar_of(tmp_path / "a.tar", [("a.jpg", JPEG), ("a.json", data)])
    (sample,) = ShardReader(shard_of(tar), limits=LimitsConfig(), several_labels=True)
    assert sample.labels == labels
    assert tar.read_bytes()[sample.image_at :].startswith(JPEG)
    (plain,), _ = read(tar)
    assert plain.labels is None


def test_links_devices_and_folders_are_passed_over(tmp_path):
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE)
    odd = [header(f"{kind.decode()}.jpg", kind) for kind in kinds]
    samples, reader = read(tar_of(tmp_path / "a.tar", [*odd, ("a.jpg", JPEG)]))
    assert brief(samples) == [(0, "a", "ok")]
    assert (reader.skipped_members, reader.fault) == (4, None)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("name", "key"),
    [("../../etc/x.jpg", "../../etc/x"), ("/abs/x.jpg", "/abs/x"), ("a\nb.jpg", "a\nb"),
     ("🐈.jpg", "🐈"), ("\udcff\udcfe.jpg", "\\udcff\\udcfe")],
)  # fmt: skip
def test_names_are_opaque(tmp_path, name, key, format):
    (sample,), _ = read(tar_of(tmp_path / "a.tar", [(name, JPEG)], format=format))
    assert sample.key == key
    sample.key.encode()


def test_a_sparse_bomb_is_not_expanded(tmp_path):
    path = tar_of(tmp_path / "a.tar", [("b.jpg", JPEG)])
    path.write_bytes(gnu_sparse("a.jpg", 7 * 10**8) + path.read_bytes())
    with tarfile.open(path) as tar:
        assert tar.getmember("a.jpg").size == 7 * 10**8
    samples, reader = read(path)
    assert brief(samples) == [(0, "a", "unsupported"), (1, "b", "ok")]
    assert reader.fault is None


def test_a_pax_sparse_member_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a.jpg"}
        info.size = len(JPEG)
        tar.addfile(info, io.BytesIO(JPEG))
    assert only_reject(read(path)[0]).reason == "unsupported"


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        (b"0", b"\xff" * 12, "negative size"),
        (b"x", b"%011o\0" % 10**9, "claims an extension"),
        (b"L", b"%011o\0" % 10**9, "claims an extension"),
        (b"x", b"%011o\0" % 100, "pax header"),
        (b"0", b"%011o\0" % 10**9, "inside a member"),
    ],
)
def test_hostile_headers_end_the_shard_in_order(two, kind, size, words):
    patch_header(two, SECOND, 124, size)
    patch_header(two, SECOND, 156, kind)
    samples, reader = read(two)
    assert words in reader.fault
    assert samples[-1].reason == "truncated"


def test_a_shard_of_many_samples(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("0.jpg")
    info.size = 1
    with path.open("wb") as file:
        for i in range(3000):
            info.name = f"{i}.jpg"
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + b"x".ljust(512, b"\0"))
        file.write(bytes(1024))
    samples, reader = read(path)
    assert [s.index for s in samples] == list(range(3000))
    assert reader.fault is None
