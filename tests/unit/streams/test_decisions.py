"""Decisions reach the book whether or not a run goes on, once in effect and always on record."""

import pytest

from streams.decisions import Decisions
from streams.ledger import Ledger
from streams.shard import Shard


def shard(name):
    return Shard(
        url=f"/in/{name}.tar", size_bytes=1, fingerprint="1-1", discovered_at=0.0, source="s"
    )


@pytest.fixture
def ledger(tmp_path):
    book = Ledger(tmp_path / "ledger.sqlite")
    book.add([shard("a"), shard("b")])
    yield book
    assert book.verify() == []
    book.close()


@pytest.fixture
def decisions(tmp_path):
    return Decisions(tmp_path / "decisions")


def states(ledger):
    return {state: n for state, n in ledger.counts()["s"].shards.items() if n}


def test_decisions_are_applied_in_order_and_recorded(ledger, decisions):
    skip = decisions.skip_shards([shard("a").id, shard("unknown").id])
    assert decisions.outcome(skip) is None
    decisions.apply(ledger)
    assert decisions.outcome(skip) == "1 of 2 shards are ruled out"
    assert states(ledger) == {"quarantined": 1, "unread": 1}
    retry = decisions.retry_shards([shard("a").id])
    add = decisions.add_shard(shard("c"))
    decisions.apply(ledger)
    assert decisions.outcome(retry) == "1 of 1 shards are offered again"
    assert decisions.outcome(add) == "1 shard is added"
    assert states(ledger) == {"unread": 3}
    assert [line["kind"] for line in decisions.record()] == [
        "skip_shards", "retry_shards", "add_shard",
    ]  # fmt: skip


def test_a_skipped_shard_is_fenced_while_it_is_read(ledger, decisions):
    lease = ledger.lease("w", generation=0)
    decisions.skip_shards([lease.shard.id])
    decisions.apply(ledger)
    assert ledger.renew("w", [lease.token]) == []
    assert ledger.lease("w", generation=0).shard == shard("b")


def test_skipped_samples_are_fenced_and_then_passed_over(ledger, decisions):
    lease = ledger.lease("w", generation=0)
    decision = decisions.skip_samples([(1, 0), (1, 2)], why="steps 3:4")
    decisions.apply(ledger)
    assert decisions.outcome(decision) == "2 samples are newly ruled out, of 2"
    assert ledger.renew("w", [lease.token]) == [], "its reader may hold them"
    lease = ledger.lease("w", generation=0)
    assert lease.skip == ((0, 1), (2, 3))
    ledger.finish(lease, num_samples=3, fault=None)
    assert ledger.counts()["s"].dropped["skipped"] == 2
    assert decisions.record()[0]["why"] == "steps 3:4"
    assert "places" not in decisions.record()[0], "a million samples are no line for people"


def test_applying_again_after_a_crash_changes_nothing_more(ledger, decisions, tmp_path):
    decisions.skip_shards([shard("a").id])
    (waiting,) = (tmp_path / "decisions").glob("*.json")
    text = waiting.read_text()
    decisions.apply(ledger)
    before = ledger.counts()
    waiting.write_text(text)  # as if the crash came between the book and the record
    decisions.apply(ledger)
    assert ledger.counts() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}', '{"id": "x", "kind": "dance"}'])
def test_a_file_that_is_no_decision_is_recorded_and_put_away(ledger, decisions, tmp_path, text):
    (tmp_path / "decisions").mkdir()
    (tmp_path / "decisions" / "7.json").write_text(text)
    good = decisions.skip_shards([shard("a").id])
    decisions.apply(ledger)
    assert any("refused: 7.json is no decision" in line["outcome"] for line in decisions.record())
    assert not (tmp_path / "decisions" / "7.json").exists()
    assert decisions.outcome(good) == "1 of 1 shards are ruled out"
