"""The loop: load, claim, step, report, checkpoint. It knows no Ray.

Everything outside arrives as three small protocols: a feed of batches, the books, and a desk that
takes reports and passes on the wish to stop. All ranks agree on every turn of the loop by a vote on
the host, so that a starved rank, or a stop that one rank saw first, leaves no other rank
hanging in a collective.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from online_swav.caretaker import Caretaker
from online_swav.checkpoint import Checkpoint, Checkpoints
from online_swav.config import RunConfig, digest, to_yaml
from online_swav.crops import as_tensors
from online_swav.errors import CheckpointError
from online_swav.events import Events
from online_swav.learning.findings import Health
from online_swav.learning.learner import Learner, NonFiniteLossError, StepReport
from online_swav.learning.ranks import Ranks
from online_swav.lineage import Lineage
from online_swav.observer import Observer
from online_swav.parallel import vote
from online_swav.published import Published
from online_swav.status import CheckpointStatus, LearnerStatus, ProbeStatus, RunState
from online_swav.timing import StepTimes
from streams.batch import Batch
from streams.ledger_delta import Delta
from streams.shard import Origin

logger = logging.getLogger(__name__)

MAX_FAILED_CHECKPOINTS = 3
CHECKPOINT_RETRY_S = 30.0
PATIENCE_S = 1.0
"""Seconds that ranks with images wait for one whose readers have nothing."""


class Feed(Protocol):
    """Where batches come from."""

    def next_batch(self, *, flush: bool) -> Batch | None:
        """A batch, or None when none came within a moment. `flush` takes a last partial one."""

    @property
    def dry(self) -> bool:
        """Whether every reader said that there is nothing to read now."""

    @property
    def backlog_ratio(self) -> float:
        """Share of the requests to readers that were answered before they were asked for."""


class Books(Protocol):
    """What a learner asks of the ledger, in one generation."""

    def claim(self, origins: Sequence[Origin], *, rank: int, step: int) -> list[bool]:
        """See `Ledger.claim`."""

    def flush(self) -> None:
        """See `Ledger.flush`."""

    def delta(self, *, step: int, since_step: int, since_version: int) -> Delta:
        """See `Ledger.delta`."""

    def fold(self, step: int) -> int:
        """See `Ledger.fold`."""

    def copy_to(self, path: Path) -> object:
        """See `Ledger.copy_to`."""

    def replay(self) -> int:
        """See `Ledger.replay`."""

    def pending(self) -> int:
        """See `Ledger.pending`; and tars that have not settled yet."""


class Desk(Protocol):
    """Where reports go and wishes come from. No call may block on the network."""

    def report(self, status: LearnerStatus) -> None:
        """The newest numbers."""

    def checkpointed(self, status: CheckpointStatus | None) -> None:
        """A checkpoint was published, or failed (None)."""

    def probed(self, status: ProbeStatus) -> None:
        """The labelled probe has a result."""

    def wants_stop(self) -> bool:
        """Whether someone asked the run to stop."""


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
        self._checkpoints = Checkpoints(Path(config.run), keep=config.checkpoint.keep)
        self._published = Published(Path(config.run), keep=config.checkpoint.keep)
        self._lineage = Lineage(Path(config.run))
        self._events = Events(Path(config.run))
        self._care = Caretaker(
            run=Path(config.run), act=config.act, learner=learner, checkpoints=self._checkpoints,
            rank=ranks.rank, generation=generation,
        )  # fmt: skip
        self._remedy = 0  # that this rank votes for
        self._committed_step = resumed.manifest.step if resumed else -1
        self._committed_version = resumed.manifest.ledger_version if resumed else 0
        self._probes = [ProbeStatus(**p) for p in resumed.manifest.probes] if resumed else []  # type: ignore[arg-type]
        self._held: Batch | None = None
        self._images = 0  # that all ranks together hold for the next step
        self._dry_since: float | None = None
        self._flush = False
        self._finished: str | None = None
        self._refused = 0
        self._failed_checkpoints = 0
        self._last: StepReport | None = None
        self._phase_s = dict.fromkeys(("wait", "claim", "step", "checkpoint", "probe"), 0.0)
        self._times = StepTimes()
        now = time.monotonic()
        self._reported = (now, 0.0, learner.idle_s or 0.0, learner.step_count, learner.samples_seen)
        self._checkpoint_at = now
        self._retry_at = now

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
        except NonFiniteLossError as error:
            self._care.nonfinite(error)

    def _train(self) -> str:
        self._run_probe()
        self._report("starting")
        while (reason := self._stop_reason()) is None:
            batch = self._load()
            if batch is not None:
                self._step(batch)
        self._report("stopping")
        self._run_probe(last=True)
        self._commit(last=True)
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
        commit_due = first and self._commit_due(now)
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
        if self._ranks.rank != 0:
            return
        now = time.monotonic()
        then, waited, idle, step, samples = self._reported
        wait = self._phase_s["wait"] - waited
        # The host runs ahead of a GPU: only while that has nothing to do does the learner wait.
        idle_s = learner.idle_s
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

    # -- commits -------------------------------------------------------------------------------

    def _commit_due(self, now: float) -> bool:
        steps = self._learner.step_count - max(self._committed_step, 0)
        limits = self._config.checkpoint
        return now >= self._retry_at and (
            steps >= limits.every_steps
            or (steps > 0 and now - self._checkpoint_at >= limits.every_s)
        )

    def _commit(self, *, last: bool = False) -> None:
        """Flush the book, publish the checkpoint, fold what can never be rolled back.

        Collective when there are several ranks: the verdict sums over them.
        """
        learner = self._learner
        self._checkpoint_at = time.monotonic()
        health = learner.health()
        # A run that is about to go back commits nothing; the next vote takes it there.
        self._remedy = self._care.look(health)
        if self._care.withholds(health) or learner.step_count == self._committed_step:
            return
        self._care.committed(health)
        if self._ranks.rank != 0:
            return
        begun = time.monotonic()
        with self._timed("checkpoint"):
            try:
                checkpoint = self._publish(health.verdict)
            except CheckpointError as error:
                self._desk.checkpointed(None)
                self._events.add("checkpoint_failed", step=learner.step_count, reason=str(error))
                self._failed_checkpoints += 1
                if last or self._failed_checkpoints >= MAX_FAILED_CHECKPOINTS:
                    raise
                self._retry_at = time.monotonic() + CHECKPOINT_RETRY_S
                logger.error("checkpoint_failed error=%r", str(error))
                return
            self._failed_checkpoints = 0
            published_at = self._publish_encoder(health)
            self._lineage.drop_old_bases()
            self._books.fold(self._checkpoints.prune())
            if self._lineage.base_due():
                self._books.copy_to(self._lineage.base_path(learner.step_count))
        manifest = checkpoint.manifest
        self._committed_step = manifest.step
        self._committed_version = manifest.ledger_version
        seconds = time.monotonic() - begun
        self._desk.checkpointed(
            CheckpointStatus(step=manifest.step, published_at=manifest.created_at,
                             duration_s=seconds, size_bytes=checkpoint.size_bytes,
                             encoder_published_at=published_at)
        )  # fmt: skip
        self._events.add("checkpoint", step=manifest.step, verdict=health.verdict,
                         seconds=round(seconds, 3), size_bytes=checkpoint.size_bytes)  # fmt: skip
        logger.info("checkpoint_published step=%d seconds=%.2f verdict=%s",
                    manifest.step, seconds, health.verdict)  # fmt: skip

    def _publish_encoder(self, health: Health) -> float | None:
        """Put the backbone into `published/` if it is healthy; when, in unix seconds."""
        if health.verdict != "ok":
            return None
        learner, augment = self._learner, self._config.learner.augment
        card = {
            "samples_seen": learner.samples_seen,
            "verdict": health.verdict,
            "knn_accuracy": self._probes[-1].knn_accuracy if self._probes else None,
            "backbone": self._config.learner.model.backbone,
            "small_stem": self._config.learner.model.small_stem,
            "mean": augment.mean,
            "std": augment.std,
            "size": self._config.crops[0].size,
            "config_digest": digest(self._config),
        }
        try:
            encoder = self._published.publish(
                learner.model.backbone, step=learner.step_count, card=card
            )
        except CheckpointError as error:  # the checkpoint is safe: the next one publishes again
            logger.error("publish_failed error=%r", str(error))
            return None
        self._events.add("published", step=learner.step_count)
        return encoder.at

    def _publish(self, verdict: str) -> Checkpoint:
        learner = self._learner
        self._books.flush()
        self._observer.at("after_flush", step=learner.step_count, origins=())
        delta = self._books.delta(step=learner.step_count, since_step=self._committed_step,
                                  since_version=self._committed_version)  # fmt: skip
        checkpoint = self._checkpoints.publish(
            step=learner.step_count,
            samples_seen=learner.samples_seen,
            parent_step=self._committed_step,
            created_at=time.time(),
            verdict=verdict,
            probes=tuple(asdict(probe) for probe in self._probes),
            learner_state=learner.state_dict(),
            delta=delta,
            config_yaml=to_yaml(self._config),
            generation=self._generation,
            on_rename=partial(
                self._observer.at, "after_rename", step=learner.step_count, origins=()
            ),
        )
        self._observer.at("after_publish", step=learner.step_count, origins=())
        return checkpoint

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._phase_s[phase] += time.monotonic() - begun
