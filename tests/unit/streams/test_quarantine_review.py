"""The quarantine as a person sees it: each sample once, a second try, the bin."""

import pytest

from streams.config import LimitsConfig
from streams.quarantine import Quarantine
from streams.quarantine_review import QuarantineReview
from streams.reader import ShardReader
from streams.shard import Shard
from streams.testing import jpeg_bytes


def shard(source="s"):
    return Shard(
        url=f"/in/{source}.tar", source=source, size_bytes=10, fingerprint="f", discovered_at=0.0
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "quarantine"


def keep(folder, index, *, source="s", data=b"x", suffix="jpg"):
    Quarantine(folder).keep_sample(
        shard(source), index=index, key="../../etc/k", reason="too_large", detail="d",
        suffix=suffix, data=data,
    )  # fmt: skip


def test_an_empty_quarantine(folder):
    review = QuarantineReview(folder)
    assert review.waiting() == []
    assert review.pack([]) == ([], [])


def test_a_repeated_line_is_one_sample(folder):
    keep(folder, 3)
    keep(folder, 3)
    (sample,) = QuarantineReview(folder).waiting()
    assert (sample.index, sample.source, sample.reason) == (3, "s", "too_large")


def test_a_second_try_is_a_shard_that_reads_back(folder):
    pictures = [jpeg_bytes(seed) for seed in range(3)]
    for index, picture in enumerate(pictures):
        keep(folder, index, data=picture)
    keep(folder, 9, data=None)  # truncated: nothing was kept
    keep(folder, 1, source="t", data=pictures[0], suffix="png")
    review = QuarantineReview(folder)
    shards, packed = review.pack(review.waiting())
    assert len(packed) == 4
    assert {s.source for s in shards} == {"s", "t"}
    first = next(s for s in shards if s.source == "s")
    samples = list(ShardReader(first, limits=LimitsConfig()))
    assert [sample.image for sample in samples] == pictures


def test_a_decided_sample_is_off_the_list_and_its_copy_is_gone(folder):
    keep(folder, 1)
    keep(folder, 2)
    review = QuarantineReview(folder)
    assert review.decide(review.waiting()[:1], "discarded") == 1
    assert [sample.index for sample in review.waiting()] == [2]
    assert [p.name for p in folder.glob("*.jpg")] == [f"{shard().id}-000002.jpg"]


def test_a_copy_deleted_by_hand_is_not_packed(folder):
    keep(folder, 1)
    review = QuarantineReview(folder)
    (sample,) = review.waiting()
    (folder / sample.copy).unlink()
    assert review.pack([sample]) == ([], [])
    assert review.decide([sample], "discarded") == 1
