"""The book against a model of itself, under random work, crashes and rollbacks."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.errors import LeaseLost
from streams.ledger import Ledger
from streams.shard import Origin, SampleId, Shard

WORKERS = st.sampled_from(["w0", "w1"])
NUM_SAMPLES = 2


class LedgerMachine(RuleBasedStateMachine):
    """Model: the step that trained each (shard, pass, index), and the pass that rejected each
    (shard, index); what a person has ruled out."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.open()
        self.trained = {}
        self.rejected = {}
        self.ruled_out = set()
        self.ruled_out_shards = set()
        self.numbers = {}
        self.finished = set()
        self.step = 0
        self.folded = 0
        self.added = 0
        self.leases = []

    def open(self):
        self.ledger = Ledger(self.path, lease_s=10, max_attempts=1000, clock=lambda: self.now)

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    @rule()
    def discover(self):
        self.added += 1
        shard = Shard(url=f"/{self.added}.tar", size_bytes=1, fingerprint="1-1",
                      discovered_at=0.0, source="s")  # fmt: skip
        self.ledger.add([shard])
        self.numbers[shard.id] = self.added

    @rule(worker=WORKERS)
    def begin_to_read(self, worker):
        self.lease(worker)

    def lease(self, worker):
        lease = self.ledger.lease(worker, generation=self.ledger.generation)
        if lease is not None:
            assert lease.shard.id not in self.ruled_out_shards
            for shard, i in self.ruled_out:
                claimed = (shard, lease.pass_number, i) in self.trained
                if shard == lease.shard.id and not claimed:
                    self.rejected.setdefault((shard, i), lease.pass_number)
            known = {i for (s, p, i) in self.trained
                     if (s, p) == (lease.shard.id, lease.pass_number)}  # fmt: skip
            known |= {i for (s, i) in self.rejected if s == lease.shard.id}
            skipped = {i for start, stop in lease.skip for i in range(start, stop)}
            assert skipped == known, "a lease skips exactly what has a fate"
            self.leases.append(lease)
        return lease

    @rule(worker=WORKERS, bad=st.integers(0, NUM_SAMPLES))
    def read_whole_shard(self, worker, bad):
        """What a healthy reader and learner do, so that later passes are reached."""
        lease = self.lease(worker)
        if lease is None:
            return
        left = [i for i in range(NUM_SAMPLES) if (lease.shard.id, i) not in self.rejected
                and (lease.shard.id, lease.pass_number, i) not in self.trained]  # fmt: skip
        if bad in left:
            left.remove(bad)
            self.ledger.reject(lease, index=bad, reason="corrupt")
            self.rejected[lease.shard.id, bad] = lease.pass_number
        self.claim(lease, left)
        self.ledger.finish(lease, num_samples=NUM_SAMPLES, fault=None)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def train(self, data):
        """A step claims some samples of some lease, current or long over."""
        lease = data.draw(st.sampled_from(self.leases))
        indices = data.draw(st.lists(st.integers(0, NUM_SAMPLES - 1), min_size=1, max_size=5))
        # A sample is either decoded and claimed, or rejected: no reader does both.
        self.claim(lease, [i for i in indices if (lease.shard.id, i) not in self.rejected])

    def claim(self, lease, indices):
        self.step += 1
        batch = [Origin(SampleId(lease.shard.id, i), lease.pass_number, lease.token)
                 for i in indices]  # fmt: skip
        granted = self.ledger.claim(
            batch, generation=self.ledger.generation, rank=0, step=self.step
        )
        for index, ok in zip(indices, granted, strict=True):
            place = (lease.shard.id, lease.pass_number, index)
            if ok:
                assert place not in self.trained, "trained twice in one pass"
                self.trained[place] = self.step

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), index=st.integers(0, NUM_SAMPLES - 1))
    def reject(self, data, index):
        lease = data.draw(st.sampled_from(self.leases))
        if (lease.shard.id, lease.pass_number, index) in self.trained:
            return
        try:
            self.ledger.reject(lease, index=index, reason="corrupt")
        except LeaseLost:
            return
        self.rejected.setdefault((lease.shard.id, index), lease.pass_number)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def finish(self, data):
        lease = data.draw(st.sampled_from(self.leases))
        try:
            self.ledger.finish(lease, num_samples=NUM_SAMPLES, fault=None)
        except LeaseLost:
            return
        self.finished.add(lease.shard.id)

    @rule(worker=WORKERS, crashed=st.booleans())
    def release(self, worker, crashed):
        self.ledger.release(worker, crashed=crashed)

    @rule()
    def time_passes(self):
        self.now += 7

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), index=st.integers(0, NUM_SAMPLES - 1))
    def skip_samples(self, data, index):
        shard = data.draw(st.sampled_from(sorted(self.numbers)))
        news = self.ledger.skip_samples([(self.numbers[shard], index)])
        assert news == ((shard, index) not in self.ruled_out)
        self.ruled_out.add((shard, index))

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def skip_shard(self, data):
        shard = data.draw(st.sampled_from(sorted(self.numbers)))
        assert self.ledger.skip_shard(shard)
        self.ruled_out_shards.add(shard)

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def retry_shard(self, data):
        shard = data.draw(st.sampled_from(sorted(self.numbers)))
        assert self.ledger.retry(shard) == (shard in self.ruled_out_shards)
        self.ruled_out_shards.discard(shard)

    @rule()
    def replay(self):
        self.ledger.replay()

    @rule(back=st.integers(0, 5))
    def resume_from_checkpoint(self, back):
        step = max(self.step - back, self.folded)
        generation = self.ledger.begin(step)
        assert generation == self.ledger.generation
        undone = {}
        for (shard, p, _), s in self.trained.items():
            if s > step:
                undone[shard] = min(p, undone.get(shard, p))
        self.trained = {place: s for place, s in self.trained.items() if s <= step}
        for (shard, i), p in list(self.rejected.items()):
            if p > undone.get(shard, p):
                if (shard, undone[shard], i) in self.trained:
                    del self.rejected[shard, i]
                else:
                    self.rejected[shard, i] = undone[shard]
        self.step = step

    @rule(back=st.integers(0, 5))
    def fold(self, back):
        self.folded = max(self.folded, self.step - back)
        self.ledger.fold(self.folded)

    @rule()
    def crash_of_the_ledger(self):
        self.ledger.close()
        self.open()

    @invariant()
    def book_equals_model(self):
        if not hasattr(self, "ledger"):
            return
        assert self.ledger.verify() == []
        counts = self.ledger.counts().get("s")
        if counts is not None:
            assert counts.trained == sum(1 for (_, p, _) in self.trained if p == 0)
            assert counts.replayed == sum(1 for (_, p, _) in self.trained if p > 0)
            assert sum(counts.dropped.values()) == list(self.rejected.values()).count(0)
            assert sum(counts.shards.values()) == self.added


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
