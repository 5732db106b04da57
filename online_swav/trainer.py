"""The loop: load, claim, step, report, checkpoint. It knows no Ray.

Everything outside arrives as three small protocols: a feed of batches, the books, and a desk that
takes reports and passes on the wish to stop. All ranks agree on every turn of the loop by a vote on
the host, so that a starved rank, or a stop that one rank saw first, leaves no other rank
hanging in a collective.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from online_swav.caretaker import Caretaker
from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.committer import Committer
from online_swav.config import RunConfig
from online_swav.crops import as_tensors
from online_swav.events import Events
from online_swav.learning.learner import Learner, NonFiniteLossError, StepReport
from online_swav.learning.ranks import Ranks
from online_swav.observer import Observer
from online_swav.parallel import vote
from online_swav.protocols import Books, Desk, Feed
from online_swav.status import LearnerStatus, ProbeStatus, RunState
from online_swav.timing import StepTimes
from streams.batch import Batch

logger = logging.getLogger(__name__)

PATIENCE_S = 1.0
"""Seconds that ranks with images wait for one whose readers have nothing."""


class Trainer:
    """Trains one rank of one generation until stopped.

    Args:
        config: The run.
        learner: The rank's learner, already holding the state of `resumed`.
        ranks: All ranks of this generation.
        feed: This rank's batches.
        books: The ledger.
        desk: Reports and wishes; used by rank 0 only, except for `wants_stop`.
        generation: Of this start of the learners; publishing is fenced by it.
        resumed: The checkpoint that the learner's state is from; None in a new run.
        probe: Measures k-NN accuracy of a frozen backbone; rank 0 only.
        observer: Called at the named points of the loop.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        learner: Learner,
        ranks: Ranks,
        feed: Feed,
        books: Books,
        desk: Desk,
        generation: int,
        resumed: Checkpoint | None,
        probe: Callable[[nn.Module], float] | None,
        observer: Observer,
    ) -> None:
        self._config = config
        self._learner = learner
        self._ranks = ranks
        self._feed = feed
        self._books = books
        self._desk = desk
        self._probe = probe if ranks.rank == 0 else None
        self._generation = generation
        self._observer = observer
        self._events = Events(Path(config.run))
        checkpoints = Checkpoints(Path(config.run), keep=config.checkpoint.keep)
        self._care = Caretaker(
            run=Path(config.run), act=config.act, learner=learner, checkpoints=checkpoints,
            rank=ranks.rank, generation=generation,
        )  # fmt: skip
        self._remedy = 0  # that this rank votes for
        self._probes = [ProbeStatus(**p) for p in resumed.manifest.probes] if resumed else []  # type: ignore[arg-type]
        self._held: Batch | None = None
        self._images = 0  # that all ranks together hold for the next step
        self._dry_since: float | None = None
        self._flush = False
        self._finished: str | None = None
        self._desk_stops = False  # somebody wishes it
        self._refused = 0
        self._last: StepReport | None = None
        self._phase_s = dict.fromkeys(("wait", "claim", "step", "checkpoint", "probe"), 0.0)
        self._times = StepTimes()
        now = time.monotonic()
        self._reported = (now, 0.0, learner.idle_s or 0.0, learner.step_count, learner.samples_seen)
        self._committer = Committer(
            config, learner=learner, checkpoints=checkpoints, books=books, desk=desk,
            observer=observer, events=self._events, generation=generation, resumed=resumed,
        )  # fmt: skip

    def run(self) -> str:
        """Train until a limit, the end of the stream, or a wish to stop; the reason in words.

        Raises:
            StartAgain: If the run goes back to an earlier checkpoint.
            GivenUp: If it is unwell, and every remedy was in vain.
            NonFiniteLossError: If the loss stays non-finite and the run is not to act.
            CheckpointError: If checkpoints fail again and again, or the last one fails.
        """
        try:
            return self._train()
        except NonFiniteLossError as error:  # on every rank at once
            self._care.apply(*vote(self._ranks, [self._care.fail(error)]))
            raise

    def _train(self) -> str:
        self._run_probe()
        self._report("starting")
        while (reason := self._stop_reason()) is None:
            batch = self._load()
            if batch is not None:
                self._step(batch)
        self._report("stopping")
        self._run_probe(last=True)
        if not self._commit(last=True):
            if self._desk_stops:
                reason += "; collapsed: what was learned since the newest checkpoint is not kept"
            else:  # the end of the work is none of a run that has to go back
                self._care.apply(*vote(self._ranks, [self._remedy]))
        self._report("stopped")
        return reason

    # -- the turns of the loop -----------------------------------------------------------------

    def _stop_reason(self) -> str | None:
        config, learner = self._config, self._learner
        if self._finished is not None:
            return self._finished
        if config.stop_after_steps is not None and learner.step_count >= config.stop_after_steps:
            return f"reached step {learner.step_count}"
        if (
            config.stop_after_samples is not None
            and learner.samples_seen >= config.stop_after_samples
        ):
            return f"trained {learner.samples_seen} images"
        return None

    def _load(self) -> Batch | None:
        """This rank's next claimed batch, once every rank is ready. None: try again.

        A rank whose readers stay dry does not hold up the others: it joins with an empty batch.
        """
        if self._held is None:
            with self._timed("wait"):
                batch = self._feed.next_batch(flush=self._flush)
            if batch is not None:
                with self._timed("claim"):
                    self._held = self._claim(batch)
        now = time.monotonic()
        held, dry = self._held is not None, self._held is None and self._feed.dry
        images = 0 if self._held is None else len(self._held)
        self._dry_since = (self._dry_since or now) if dry else None
        out = self._dry_since is not None and now - self._dry_since >= PATIENCE_S
        first = self._ranks.rank == 0
        report_due = first and now - self._reported[0] >= self._config.report_every_s
        commit_due = first and self._committer.due(now)
        with self._timed("wait"):
            ready, stop, all_dry, dried_out, report, commit, self._images, remedy = vote(
                self._ranks,
                [held, self._desk.wants_stop(), dry, out, report_due, commit_due, images,
                 self._remedy],
            )  # fmt: skip
        self._remedy = 0
        self._care.apply(remedy)
        if report:
            self._report("training" if ready else "idle")
        if commit:
            self._commit()
        if stop:
            self._desk_stops = True
            # What is claimed already is still trained, lest its claims outlive the last checkpoint.
            self._finished = "asked to stop"
        if ready == self._ranks.size or (ready and (stop or ready + dried_out == self._ranks.size)):
            batch, self._held = self._held, None
            return Batch.empty(self._config.crops) if batch is None else batch
        if all_dry == self._ranks.size and not stop:
            self._on_dry_stream()
        return None

    def _claim(self, batch: Batch) -> Batch | None:
        """The images of the batch that the ledger grants to the next step."""
        step = self._learner.step_count + 1
        self._observer.at("before_claim", step=step, origins=batch.origins)
        granted = self._books.claim(batch.origins, rank=self._ranks.rank, step=step)
        keep = [position for position, ok in enumerate(granted) if ok]
        self._refused += len(batch) - len(keep)
        batch = batch.select(keep)
        self._observer.at("after_claim", step=step, origins=batch.origins)
        return batch if keep else None

    def _step(self, batch: Batch) -> None:
        begun = time.monotonic()
        with self._timed("step"):
            self._last = self._learner.step(as_tensors(batch), images=self._images)
        self._times.step(
            batch, step_s=time.monotonic() - begun, waited_s=self._phase_s["wait"], now=time.time()
        )
        self._observer.at("after_step", step=self._learner.step_count, origins=batch.origins)
        if self._learner.step_count % self._config.probe.every_steps == 0:
            self._run_probe()

    def _on_dry_stream(self) -> None:
        """Nothing to read on any rank: wait, offer everything again, or end."""
        if self._config.when_idle == "wait":
            return
        if self._config.when_idle == "replay":
            # Without a finished shard the images that wait in begun batches go first.
            replayed = self._books.replay() if self._ranks.rank == 0 else 0
            self._flush = sum(vote(self._ranks, [replayed > 0])) == 0
            if replayed:
                logger.info("replay shards=%d", replayed)
            return
        self._flush = True
        finished = self._ranks.rank == 0 and self._books.pending() == 0
        if sum(vote(self._ranks, [finished])):
            self._finished = "the stream has ended: nothing is left that may be read"

    # -- reports -------------------------------------------------------------------------------

    def _report(self, state: RunState) -> None:
        """Collective when there are several ranks: health sums over them."""
        learner = self._learner
        signs = learner.health_values()
        health = learner.health(signs)
        self._remedy = self._care.look(health)
        idle_s = learner.idle_s  # on every rank: reading it drops what is over
        if self._ranks.rank != 0:
            return
        now = time.monotonic()
        then, waited, idle, step, samples = self._reported
        wait = self._phase_s["wait"] - waited
        # The host runs ahead of a GPU: only while that has nothing to do does the learner wait.
        if idle_s is not None:
            wait = min(wait, idle_s - idle)
        seconds = max(now - then, 1e-9)
        steps = learner.step_count - step
        host = self._last.to_host() if self._last is not None else None
        self._desk.report(
            LearnerStatus(
                state=state,
                reported_at=time.time(),
                step=learner.step_count,
                samples_seen=learner.samples_seen,
                images_per_s=(learner.samples_seen - samples) / seconds,
                wait_ratio=min(wait / seconds, 1.0),
                step_s=seconds / steps if steps else 0.0,
                phase_s=dict(self._phase_s),
                loss=host.loss if host else None,
                loss_ratio=host.loss_ratio if host else None,
                code_entropy_ratio=host.code_entropy_ratio if host else None,
                view_agreement_ratio=host.view_agreement if host else None,
                grad_norm=host.grad_norm if host else None,
                embedding_std_ratio=host.embedding_std_ratio if host else None,
                signs=signs,
                lr=host.lr if host else 0.0,
                epsilon=host.epsilon if host else 0.0,
                temperature=host.temperature if host else 0.0,
                queue_fill_ratio=learner.queue_fill_ratio,
                nonfinite_steps=learner.nonfinite_steps,
                refused_images=self._refused,
                backlog_ratio=self._feed.backlog_ratio,
                ranks=self._ranks.size,
                data_age_s=self._times.data_age_s,
                near_duplicate_ratio=self._times.near_duplicate_ratio,
                histograms=self._times.histograms(),
                actions=dict(self._care.counts),
                health=health,
            )
        )
        self._reported = (
            now, self._phase_s["wait"], idle_s or 0.0, learner.step_count, learner.samples_seen
        )  # fmt: skip

    def _run_probe(self, *, last: bool = False) -> None:
        step = self._learner.step_count
        measured = self._probes[-1].step if self._probes else -1
        if self._probe is None or measured == step or not (last or self._probe_due(step)):
            return
        with self._timed("probe"):
            accuracy = self._probe(self._learner.model.backbone)
        result = ProbeStatus(step=step, measured_at=time.time(), knn_accuracy=accuracy)
        self._probes.append(result)
        self._desk.probed(result)
        self._events.add("probe", step=step, knn_accuracy=accuracy)
        logger.info("probe step=%d knn_accuracy=%.4f", step, accuracy)

    def _probe_due(self, step: int) -> bool:
        return step == 0 or step % self._config.probe.every_steps == 0

    def _commit(self, *, last: bool = False) -> bool:
        """Commit, unless the run is about to go back: the next vote takes it there.

        Collective when there are several ranks: the verdict sums over them. Returns whether nothing
        was withheld.
        """
        health = self._learner.health()
        self._remedy = self._care.look(health)
        self._committer.looked()
        if self._care.withholds(health):
            return False
        if self._ranks.rank == 0:
            with self._timed("checkpoint"):
                done = self._committer.commit(health, self._probes, last=last)
            if done:
                self._care.committed(health)
        return True

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._phase_s[phase] += time.monotonic() - begun
