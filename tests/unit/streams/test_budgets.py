"""Failure budgets: a source full of rubbish is paused, tried again, released; the rest goes on."""

import pytest

from streams.config import BudgetConfig
from streams.ledger import Ledger
from streams.shard import Origin, SampleId, Shard
from streams.testing import FakeClock

BUDGET = BudgetConfig(max_bad_share=0.2, window=100, min_samples=20, retry_s=60)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def open_ledger(tmp_path, clock):
    books = []

    def open_it():
        for book in books:
            book.close()
        books[:] = [Ledger(tmp_path / "ledger.sqlite", budget=BUDGET, wall_clock=clock)]
        return books[0]

    yield open_it
    assert books[0].verify() == []
    books[0].close()


def add(ledger, source, shards):
    known = sum(ledger.counts()[source].shards.values()) if source in ledger.counts() else 0
    ledger.add(
        Shard(url=f"/{source}/{known + i}.tar", size_bytes=1, fingerprint="1-1", discovered_at=0.0,
              source=source) for i in range(shards)
    )  # fmt: skip


def read(ledger, *, good=0, bad=0, reason="corrupt"):
    """Read one shard to its end; the source it came from, or None."""
    lease = ledger.lease("w", generation=ledger.generation)
    if lease is None:
        return None
    for index in range(bad):
        ledger.reject(lease, index=index, reason=reason)
    origins = [Origin(SampleId(lease.shard.id, bad + i), lease.pass_number, lease.token)
               for i in range(good)]  # fmt: skip
    ledger.claim(origins, generation=ledger.generation, rank=0, step=1)
    ledger.finish(lease, num_samples=good + bad, fault=None)
    return lease.shard.source


def paused(ledger, source="bad"):
    return ledger.counts()[source].paused


def test_a_source_over_budget_is_paused_and_the_others_go_on(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 5)
    assert read(ledger, good=6, bad=4) == "bad"
    assert read(ledger, good=6, bad=4) == "bad", "20 samples are needed for a verdict"
    add(ledger, "good", 3)
    assert [read(ledger, good=10) for _ in range(4)] == ["good", "good", "good", None]
    assert paused(ledger).startswith("8 of its last 20 samples could not be used (40%; the budget")
    assert paused(ledger, "good") == ""
    assert ledger.pending() == 0, "what waits in a pause keeps no run from ending"


def test_a_source_within_budget_is_not_paused(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 30)
    assert all(read(ledger, good=8, bad=2) for _ in range(30))
    assert paused(ledger) == ""
    assert ledger.counts()["bad"].bad_ratio == pytest.approx(0.2)


def test_the_good_past_is_forgotten(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 200)
    for _ in range(100):
        read(ledger, good=10)
    bad_shards = 0
    while read(ledger, bad=10) is not None:
        bad_shards += 1
    assert 2 <= bad_shards <= 4, "judged by the last 100 samples, not by all 1,000"


def test_a_paused_source_is_tried_and_released_when_it_is_good_again(open_ledger, clock):
    ledger = open_ledger()
    add(ledger, "bad", 20)
    for _ in range(2):
        read(ledger, bad=10)
    assert read(ledger) is None
    clock.advance(59)
    assert read(ledger) is None
    clock.advance(2)
    tried = [read(ledger, bad=10), read(ledger, bad=10), read(ledger)]
    assert tried == ["bad", "bad", None], "as many shards as give a verdict"
    clock.advance(61)
    assert [read(ledger, good=10) for _ in range(5)] == ["bad"] * 5
    assert paused(ledger) == ""


def test_a_pause_survives_a_restart_and_a_clock_that_jumps_back(open_ledger, clock):
    ledger = open_ledger()
    add(ledger, "bad", 20)
    for _ in range(2):
        read(ledger, bad=10)
    assert read(ledger) is None
    ledger = open_ledger()
    assert read(ledger) is None
    clock.advance(-3600)
    assert read(ledger, good=1) == "bad", "a pause in the future says nothing: it is tried now"


def test_shards_that_cannot_be_read_count_like_mean_ones(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 20)
    for _ in range(8):
        read(ledger, good=10)
    for _ in range(2):
        ledger.quarantine(ledger.lease("w", generation=0), fault="not_a_tar: x")
        assert paused(ledger) == ""
    ledger.quarantine(ledger.lease("w", generation=0), fault="not_a_tar: x")
    assert read(ledger) is None
    assert paused(ledger).startswith("20 of its last 60 "), "the older half is forgotten"


def test_a_mean_shard_stays_one_when_all_are_offered_again(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 11)
    for _ in range(10):
        read(ledger, good=10)
    ledger.replay()
    ledger.quarantine(ledger.lease("w", generation=0), fault="not a tar")
    for _ in range(3):
        assert read(ledger, good=10) == "bad", "10 samples are bad, not 100"


def test_a_rollback_forgets_good_samples_and_blames_nobody(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 12)
    for _ in range(10):
        read(ledger, good=10)
    ledger.quarantine(ledger.lease("w", generation=0), fault="not a tar")
    ledger.begin(0)
    for _ in range(11):
        assert read(ledger, good=10) == "bad"
    assert ledger.counts()["bad"].bad_ratio == 0


def test_a_source_of_nothing_but_unreadable_shards_is_paused(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 50)
    quarantined = 0
    while (lease := ledger.lease("w", generation=0)) is not None:
        ledger.quarantine(lease, fault="not_a_tar: x")
        quarantined += 1
    assert quarantined == 4


def test_what_a_person_has_ruled_out_is_no_failure(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 30)
    for number in range(20):
        assert ledger.skip_shard(
            Shard(url=f"/bad/{number}.tar", size_bytes=1, fingerprint="1-1", discovered_at=0.0,
                  source="bad").id
        )  # fmt: skip
    assert read(ledger, good=10) == "bad"
    ledger.skip_samples([(22, index) for index in range(100)])
    lease = ledger.lease("w", generation=0)
    ledger.finish(lease, num_samples=100, fault=None)
    assert read(ledger, good=10) == "bad"
    counts = ledger.counts()["bad"]
    assert (counts.bad_ratio, counts.dropped["skipped"]) == (0, 100)


def test_a_person_can_end_a_pause(open_ledger):
    ledger = open_ledger()
    add(ledger, "bad", 20)
    for _ in range(2):
        read(ledger, bad=10)
    assert read(ledger) is None
    assert ledger.release_source("bad")
    assert not ledger.release_source("bad"), "it is not paused any more"
    assert not ledger.release_source("unknown")
    assert read(ledger, good=10) == "bad"


def test_a_share_of_one_never_pauses(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", budget=BudgetConfig(max_bad_share=1.0, min_samples=1))
    add(ledger, "bad", 9)
    assert [read(ledger, bad=100) for _ in range(9)] == ["bad"] * 9
    ledger.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"max_bad_share": 0}, "max_bad_share"), ({"min_samples": 3000}, r"min_samples must lie in 1"),
     ({"retry_s": 0}, "retry_s")],
)  # fmt: skip
def test_bad_options_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        BudgetConfig(**values)
