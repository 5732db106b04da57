"""The book: leases, claims, fencing, rollback, folding, replay, rebuilding."""

import pytest

from streams.errors import LeaseLost, LedgerError
from streams.ledger import Ledger
from streams.ledger_delta import Delta
from streams.shard import Origin, SampleId, Shard


def shard(name="a", source="s"):
    return Shard(
        url=f"/data/{name}.tar", size_bytes=10, fingerprint="10-1", discovered_at=5.0, source=source
    )


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    book = Ledger(tmp_path / "ledger.sqlite", lease_s=10, max_attempts=3, clock=clock)
    yield book
    assert book.verify() == []
    book.close()


def origins(lease, *indices):
    return [Origin(SampleId(lease.shard.id, i), lease.pass_number, lease.token) for i in indices]


def claim(ledger, lease, indices, step, rank=0, generation=None):
    generation = ledger.generation if generation is None else generation
    return ledger.claim(origins(lease, *indices), generation=generation, rank=rank, step=step)


def test_a_shard_is_added_once_and_new_bytes_are_a_new_shard(ledger):
    again = Shard(url="/data/a.tar", size_bytes=11, fingerprint="11-2", discovered_at=6, source="s")
    assert ledger.add([shard(), shard()]) == 1
    assert ledger.add([shard(), again]) == 1


def test_claims_are_granted_once(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    assert claim(ledger, lease, [0, 1], step=1) == [True, True]
    assert claim(ledger, lease, [1, 2], step=2) == [False, True]


def test_the_same_call_again_gives_the_same_answer(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    for _ in range(2):
        assert claim(ledger, lease, [0, 1], step=1, rank=3) == [True, True]
    assert claim(ledger, lease, [0, 1], step=1, rank=2) == [False, False]
    assert ledger.counts()["s"].trained == 2


def test_a_sample_twice_in_one_batch_is_claimed_once(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    assert claim(ledger, lease, [4, 4], step=1) == [True, False]


def test_a_shard_is_done_when_every_sample_has_a_fate(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    ledger.reject(lease, index=1, reason="corrupt")
    claim(ledger, lease, [0], step=1)
    ledger.finish(lease, num_samples=3, fault=None)
    assert ledger.counts()["s"].shards["delivered"] == 1
    claim(ledger, lease, [2], step=2)
    counts = ledger.counts()["s"]
    assert counts.shards["done"] == 1
    assert (counts.samples_known, counts.trained, counts.dropped["corrupt"]) == (3, 2, 1)
    assert ledger.pending() == 0


def test_an_empty_shard_is_done_at_once(ledger):
    ledger.add([shard()])
    ledger.finish(ledger.lease("w", generation=0), num_samples=0, fault=None)
    assert ledger.pending() == 0


def test_an_expired_lease_goes_to_another_worker_and_fences_the_first(ledger, clock):
    ledger.add([shard()])
    zombie = ledger.lease("w1", generation=0)
    claim(ledger, zombie, [0, 1], step=1)
    clock.now = 11
    lease = ledger.lease("w2", generation=0)
    assert lease.token > zombie.token
    assert lease.skip == ((0, 2),)
    assert claim(ledger, zombie, [2], step=2) == [False]
    for call in (
        lambda: ledger.finish(zombie, num_samples=3, fault=None),
        lambda: ledger.reject(zombie, index=2, reason="corrupt"),
        lambda: ledger.quarantine(zombie, fault="x"),
    ):
        with pytest.raises(LeaseLost):
            call()


def test_renewing_keeps_a_lease_and_says_which_are_over(ledger, clock):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    clock.now = 8
    assert ledger.renew("w", [lease.token, 99]) == [lease.token]
    clock.now = 16
    assert ledger.lease("other", generation=0) is None


def test_a_shard_that_kills_three_readers_is_quarantined(ledger):
    ledger.add([shard()])
    for _ in range(3):
        assert ledger.lease("w", generation=0) is not None
        ledger.release("w", crashed=True)
    assert ledger.lease("w", generation=0) is None
    assert ledger.counts()["s"].shards["quarantined"] == 1


@pytest.mark.parametrize("samples", [3, 5])
def test_a_shard_that_ends_elsewhere_than_before_is_quarantined(ledger, samples):
    """Its bytes changed under a reader; what was trained of it stays so."""
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    claim(ledger, lease, range(4), step=1)
    ledger.release("w", crashed=True)
    if samples > 4:  # then the number is known, from a reader before a rollback
        ledger.finish(ledger.lease("w", generation=0), num_samples=4, fault=None)
        ledger.begin(0)
    lease = ledger.lease("w", generation=ledger.generation)
    ledger.finish(lease, num_samples=samples, fault="changed")
    counts = ledger.counts()["s"]
    assert (counts.shards["quarantined"], ledger.pending()) == (1, 0)
    assert counts.trained == (4 if samples == 3 else 0)


def test_a_replay_that_ends_elsewhere_leaves_what_was_trained(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    claim(ledger, lease, range(4), step=1)
    ledger.finish(lease, num_samples=4, fault=None)
    ledger.replay()
    ledger.finish(ledger.lease("w", generation=0), num_samples=2, fault="changed")
    counts = ledger.counts()["s"]
    assert (counts.trained, counts.samples_known, counts.shards["done"]) == (4, 4, 1)
    assert ledger.replay() == 0


def test_an_orderly_release_blames_no_shard(ledger):
    ledger.add([shard()])
    for _ in range(5):
        assert ledger.lease("w", generation=0) is not None
        ledger.release("w", crashed=False)


def test_a_suspect_is_read_alone(ledger):
    ledger.add([shard("a"), shard("b")])
    ledger.lease("w", generation=0)
    ledger.release("w", crashed=True)
    suspect = ledger.lease("w", generation=0)
    assert suspect.shard.url == "/data/a.tar"
    assert ledger.lease("w", generation=0) is None
    other = ledger.lease("w2", generation=0)
    assert other.shard.url == "/data/b.tar"
    ledger.release("w", crashed=True)
    assert ledger.lease("w2", generation=0) is None, "w2 holds an innocent shard"


def test_begin_forgets_what_the_weights_forgot(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    claim(ledger, lease, [0, 1], step=1)
    claim(ledger, lease, [2, 3], step=2)
    ledger.finish(lease, num_samples=4, fault=None)
    assert ledger.pending() == 0
    assert ledger.begin(1) == 1
    again = ledger.lease("w", generation=1)
    assert again.skip == ((0, 2),)
    assert ledger.counts()["s"].trained == 2
    assert claim(ledger, lease, [2], step=2) == [False]
    with pytest.raises(LeaseLost, match="generation 0 is over"):
        claim(ledger, again, [2], step=2, generation=0)
    with pytest.raises(LeaseLost, match="generation 0"):
        ledger.lease("w", generation=0)


def finish_one(ledger, step):
    lease = ledger.lease("w", generation=ledger.generation)
    ledger.finish(lease, num_samples=3, fault=None)
    assert claim(ledger, lease, [0, 1, 2], step=step) == [True] * 3


def test_a_replay_is_a_new_pass_counted_apart(ledger):
    ledger.add([shard()])
    finish_one(ledger, 1)
    assert ledger.replay() == 1
    finish_one(ledger, 2)
    counts = ledger.counts()["s"]
    assert (counts.trained, counts.replayed) == (3, 3)


def test_rolling_back_over_a_replay_returns_to_the_first_pass(ledger):
    ledger.add([shard()])
    finish_one(ledger, 1)
    ledger.replay()
    finish_one(ledger, 2)
    ledger.begin(0)
    lease = ledger.lease("w", generation=1)
    assert (lease.pass_number, lease.skip) == (0, ())
    counts = ledger.counts()["s"]
    assert (counts.trained, counts.replayed) == (0, 0)


def test_folding_frees_rows_and_forbids_older_rollbacks(ledger):
    ledger.add([shard("a"), shard("b")])
    finish_one(ledger, 1)
    finish_one(ledger, 5)
    assert ledger.fold(3) == 3
    assert ledger.counts()["s"].trained == 6
    with pytest.raises(LedgerError, match="cannot roll back to step 2"):
        ledger.begin(2)
    ledger.begin(3)
    assert ledger.counts()["s"].trained == 3


def test_a_late_batch_of_a_folded_pass_is_refused(ledger):
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    claim(ledger, lease, [0, 1], step=1)
    ledger.finish(lease, num_samples=2, fault=None)
    assert claim(ledger, lease, [0, 1], step=1) == [True, True], "the same call again"
    ledger.fold(1)
    assert claim(ledger, lease, [0, 1], step=2) == [False, False]


def test_rolling_back_keeps_the_rejections_that_are_still_true(ledger):
    """Three samples trained in pass 0; in the replay one is broken, then both steps are undone."""
    ledger.add([shard()])
    lease = ledger.lease("w", generation=0)
    claim(ledger, lease, [0], step=1)
    claim(ledger, lease, [1, 2], step=2)
    ledger.finish(lease, num_samples=3, fault=None)
    ledger.replay()
    lease = ledger.lease("w", generation=0)
    ledger.reject(lease, index=0, reason="corrupt")
    ledger.reject(lease, index=1, reason="corrupt")
    claim(ledger, lease, [2], step=3)
    ledger.finish(lease, num_samples=3, fault=None)
    generation = ledger.begin(1)
    lease = ledger.lease("w", generation=generation)
    assert lease.pass_number == 0
    assert lease.skip == ((0, 2),), "0 is trained, 1 is known to be broken"
    claim(ledger, lease, [2], step=2)
    ledger.finish(lease, num_samples=3, fault=None)
    counts = ledger.counts()["s"]
    assert (counts.trained, counts.dropped["corrupt"], counts.shards["done"]) == (2, 1, 1)


def test_a_quarantined_replay_leaves_what_was_trained(ledger):
    ledger.add([shard()])
    finish_one(ledger, 1)
    ledger.replay()
    ledger.quarantine(ledger.lease("w", generation=0), fault="missing")
    counts = ledger.counts()["s"]
    assert counts.shards["done"] == 1
    assert counts.trained == 3
    assert ledger.replay() == 0


def test_an_unknown_reason_is_refused(ledger):
    ledger.add([shard()])
    with pytest.raises(ValueError, match="unknown reason 'ugly'"):
        ledger.reject(ledger.lease("w", generation=0), index=0, reason="ugly")


def rows_of_claims(ledger):
    return ledger._db.execute("SELECT * FROM claims").fetchall()


@pytest.mark.parametrize("folded_step", [-1, 1, 2])
@pytest.mark.parametrize("from_a_copy", [False, True])
def test_deltas_rebuild_the_book(ledger, tmp_path, folded_step, from_a_copy):
    ledger.add([shard("a"), shard("b"), shard("c")])
    lease = ledger.lease("w", generation=0)
    ledger.reject(lease, index=2, reason="corrupt")
    claim(ledger, lease, [0, 1], step=1)
    first = ledger.delta(step=1, since_step=-1, since_version=0)
    if from_a_copy:
        ledger.copy_to(tmp_path / "rebuilt.sqlite")
    ledger.finish(lease, num_samples=4, fault=None)
    claim(ledger, lease, [3], step=2)
    finish_one(ledger, 2)
    second = ledger.delta(step=2, since_step=1, since_version=first.version)
    claim(ledger, ledger.lease("w", generation=0), [7], step=3)

    rebuilt = Ledger(tmp_path / "rebuilt.sqlite")
    archive = [Delta.from_json(delta.to_json()) for delta in (first, second)]
    rebuilt.apply(archive[1:] if from_a_copy else archive, folded_step=folded_step)
    ledger.fold(folded_step)
    for book in (ledger, rebuilt):
        book.begin(2)
    assert rebuilt.verify() == []
    assert rebuilt.counts() == ledger.counts()
    assert rows_of_claims(rebuilt) == rows_of_claims(ledger)
    assert len(rows_of_claims(rebuilt)) == (0 if folded_step == 2 else 6)
    assert rebuilt.lease("w", generation=rebuilt.generation).shard.url == "/data/c.tar"
    rebuilt.close()


@pytest.mark.parametrize("rolled_back", [False, True])
def test_a_batch_claimed_ahead_of_the_checkpoint_is_not_in_the_rebuilt_book(
    ledger, tmp_path, rolled_back
):
    ledger.add([shard("a"), shard("b")])
    lease = ledger.lease("w", generation=0)
    claim(ledger, lease, [0, 1], step=1)
    ledger.finish(lease, num_samples=4, fault=None)
    claim(ledger, lease, [2, 3], step=2)  # while step 1 is trained; the shard is done by it
    deltas = [ledger.delta(step=1, since_step=-1, since_version=0)]
    if rolled_back:  # the run died, went on from step 1, and trained other images
        ledger.begin(1)
        lease = ledger.lease("w", generation=ledger.generation)
        claim(ledger, lease, [3], step=2)
        deltas.append(ledger.delta(step=2, since_step=1, since_version=deltas[0].version))
    rebuilt = Ledger(tmp_path / "rebuilt.sqlite")
    rebuilt.apply([Delta.from_json(delta.to_json()) for delta in deltas], folded_step=-1)
    assert rebuilt.verify() == []
    counts = rebuilt.counts()["s"]
    assert counts.trained == (3 if rolled_back else 2)
    assert counts.shards["done"] == 0
    again = rebuilt.lease("w", generation=rebuilt.begin(2 if rolled_back else 1))
    assert again.shard.url == "/data/a.tar"
    assert again.skip == (((0, 2), (3, 4)) if rolled_back else ((0, 2),))
    rebuilt.close()


def test_a_file_that_is_no_book_is_named(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(LedgerError, match="is not a readable ledger"):
        Ledger(path)


def test_verify_names_what_is_broken(tmp_path):
    book = Ledger(tmp_path / "ledger.sqlite")
    book.add([shard()])
    finish_one(book, 1)
    book._db.execute("DELETE FROM claims WHERE idx = 1")
    assert any("trained samples differs" in line and "a.tar" in line for line in book.verify())
    book.close()
