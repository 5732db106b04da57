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
NUM_SAMPLES = 5


class LedgerMachine(RuleBasedStateMachine):
    """Model: which step trained each (shard, pass, index), and which samples were rejected."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.open()
        self.trained = {}
        self.rejected = set()
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
        self.ledger.add([Shard(url=f"/{self.added}.tar", size_bytes=1, fingerprint="1-1",
                               discovered_at=0.0, source="s")])  # fmt: skip

    @rule(worker=WORKERS)
    def lease(self, worker):
        lease = self.ledger.lease(worker, generation=self.ledger.generation)
        if lease is not None:
            known = {i for (s, p, i) in self.trained
                     if (s, p) == (lease.shard.id, lease.pass_number)}  # fmt: skip
            known |= {i for (s, i) in self.rejected if s == lease.shard.id}
            skipped = {i for start, stop in lease.skip for i in range(start, stop)}
            assert skipped == known, "a lease skips exactly what has a fate"
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def train(self, data):
        """A step claims some samples of some lease, current or long over."""
        lease = data.draw(st.sampled_from(self.leases))
        indices = data.draw(st.lists(st.integers(0, NUM_SAMPLES - 1), min_size=1, max_size=5))
        self.step += 1
        # A sample is either decoded and claimed, or rejected: no reader does both.
        indices = [i for i in indices if (lease.shard.id, i) not in self.rejected]
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
        if any((s, i) == (lease.shard.id, index) for (s, _, i) in self.trained):
            return
        try:
            self.ledger.reject(lease, index=index, reason="corrupt")
        except LeaseLost:
            return
        self.rejected.add((lease.shard.id, index))

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

    @rule()
    def replay(self):
        self.ledger.replay()

    @rule(back=st.integers(0, 5))
    def resume_from_checkpoint(self, back):
        step = max(self.step - back, self.folded)
        generation = self.ledger.begin(step)
        assert generation == self.ledger.generation
        self.trained = {place: s for place, s in self.trained.items() if s <= step}
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
            assert sum(counts.dropped.values()) == len(self.rejected)
            assert sum(counts.shards.values()) == self.added


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
