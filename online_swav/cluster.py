"""Ray wiring: ledger, status and ingest actors, the learner group under Ray Train, orderly stop.

    driver ── starts ──> StatusActor (status, /metrics)   LedgerActor (book, discovery)
       │                        ▲ reports                     ▲ leases   ▲ claims
       └── Ray Train ──> learner ranks ── next_batch ──> IngestActors ───┘

The driver only watches: it shows the status, passes on signals, and replaces dead ingest actors.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchTrainer

from online_swav.config import RunConfig, digest
from online_swav.console import Logging
from online_swav.elastic import IngestScaler
from online_swav.errors import GivenUp, OnlineSwavError, RunFailed
from online_swav.ranks_on_ray import learner_loop
from online_swav.status import RunStatus
from online_swav.status_actor import StatusActor
from streams.actors import IngestActor, LedgerActor
from streams.errors import StreamError
from streams.sources import parse_sources

logger = logging.getLogger(__name__)

ORDERLY_STOP_S = 120.0
PING_S = 0.5
HUNG_AFTER_LEASES = 2.0
STARTING_S = 60.0


class Cluster:
    """The actors of one run. Use `running` to get one."""

    def __init__(self, config: RunConfig, log: Logging) -> None:
        run = Path(config.run)
        self._config = config
        self._log = log
        self._readers_version = 0
        self._restarts = self._added = self._removed = 0
        most = config.ingest.max_actors or config.ingest.actors
        self._scaler = IngestScaler(config.ingest.actors, most, config.elastic)
        sources = parse_sources(list(config.source))
        ledger_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(LedgerActor)
        # Calls wait for each other only inside the ledger, where a lock guards the book.
        self.ledger: Any = ledger_class.options(max_concurrency=16).remote(
            str(run / "ledger.sqlite"), sources=sources, discovery=config.discovery,
            ingest=config.ingest, budget=config.budget, decisions=str(run / "decisions"),
            set_up=log.set_up,
        )  # fmt: skip
        status_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(StatusActor)
        self.status: Any = status_class.options(max_concurrency=16).remote(
            config, config_digest=digest(config), set_up=log.set_up
        )
        self.metrics_port = 0
        self._readers: dict[str, Any] = {}
        self._answered_at: dict[str, float] = {}
        for number in range(config.ingest.actors):
            self._start_reader(_worker(number))
        self.keep_status()

    def _start_reader(self, worker: str) -> None:
        run = Path(self._config.run)
        # One thread produces, another one answers pings.
        threads: dict[str, Any] = {"concurrency_groups": {"control": 1}}
        reader_class: Any = ray.remote(num_cpus=1, max_restarts=0, **threads)(IngestActor)
        self._readers_version += 1
        self._answered_at[worker] = time.monotonic() + STARTING_S
        self._readers[worker] = reader_class.remote(
            worker, self.ledger, families=self._config.crops, config=self._config.ingest,
            seed=self._config.seed, quarantine=str(run / "quarantine"), set_up=self._log.set_up,
        )  # fmt: skip

    def keep_status(self) -> None:
        """Tell the status actor what it must know; again and again, for it may have restarted."""
        self.metrics_port = _get(self.status.serve.remote())
        _get(
            self.status.introduce.remote(
                self.ledger,
                readers=dict(self._readers),
                version=self._readers_version,
                restarts=self._restarts,
                added=self._added,
                removed=self._removed,
            )
        )

    def replace_dead_readers(self) -> None:
        """Start a new actor for each dead one; its shards go back to the book at once."""
        pings = {reader.ping.remote(): worker for worker, reader in self._readers.items()}
        answers, _ = ray.wait(list(pings), num_returns=len(pings), timeout=PING_S)
        now = time.monotonic()
        dead = []
        for answer in answers:
            try:
                ray.get(answer)
                self._answered_at[pings[answer]] = now
            except ray.exceptions.RayActorError:
                dead.append(pings[answer])
        # A ping has a thread of its own: no answer for so long is a process that hangs. Its
        # leases are over by now, and should it wake up, nobody accepts anything from it.
        patience = HUNG_AFTER_LEASES * self._config.ingest.lease_s
        hung = [w for w, at in self._answered_at.items() if w not in dead and now - at > patience]
        for worker in hung:
            logger.warning("ingest_hung worker=%s seconds=%.0f", worker, patience)
            ray.kill(self._readers[worker])
        for worker in dead + hung:
            logger.warning("ingest_died worker=%s", worker)
            _get(self.ledger.release.remote(worker, crashed=True))
            self._restarts += 1
            self._start_reader(worker)
        self.keep_status()

    def resize(self, status: RunStatus) -> None:
        """Add or remove one ingest actor, if the learner's waiting says so."""
        learner = status.learner
        if learner is None or not status.learner_up or learner.state != "training":
            return
        actors = len(self._readers)
        decision = self._scaler.decide(
            actors, wait_ratio=learner.wait_ratio, backlog_ratio=learner.backlog_ratio,
            now=time.monotonic(),
        )  # fmt: skip
        if decision == "add":
            self._added += 1
            self._start_reader(_worker(actors))
        elif decision == "remove":
            self._removed += 1
            self._readers_version += 1
            worker = _worker(actors - 1)
            del self._answered_at[worker]
            ray.kill(self._readers.pop(worker))
            _get(self.ledger.release.remote(worker, crashed=False))
        else:
            return
        logger.info("ingest_%s actors=%d waiting=%.2f backlog=%.2f",
                    "added" if decision == "add" else "removed", len(self._readers),
                    learner.wait_ratio, learner.backlog_ratio)  # fmt: skip
        self.keep_status()

    def snapshot(self) -> RunStatus:
        """The run's status now."""
        status: RunStatus = _get(self.status.snapshot.remote())
        return status

    def close(self) -> None:
        """Return the leases, make the book durable, end the actors."""
        for reader in self._readers.values():
            ray.kill(reader)
        try:
            for worker in self._readers:
                _get(self.ledger.release.remote(worker, crashed=False))
            _get(self.status.close.remote())
            _get(self.ledger.close.remote())
        except (ray.exceptions.RayError, StreamError) as error:
            # The run has ended, and its outcome is known; the next start puts the book in order.
            logger.error("close_failed error=%r", str(error))


def _worker(number: int) -> str:
    return f"ingest-{number:03d}"


def _get(reference: Any) -> Any:
    """The answer of one of our actors; an error of ours arrives as itself."""
    try:
        return ray.get(reference, timeout=ORDERLY_STOP_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OnlineSwavError | StreamError):
            raise error.cause from None
        raise


@contextmanager
def _ray_session(config: RunConfig) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start a local one that ends with us."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # As the command has it, for who trains without it: learner threads that wait must let the
    # readers run. Tried: steps of 1.5 s took up to 29 s while another process used a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ray makes its workers nice by 15: tried on two cores, one busy process of somebody else's then
    # slowed the learner from 200 images/s to 3.
    os.environ.setdefault("RAY_worker_niceness", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" not in os.environ:
        most = config.ingest.max_actors or config.ingest.actors
        needed = most + (config.max_learners or config.learners)
        options |= {"num_cpus": max(os.cpu_count() or 1, needed), "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(**options)
    # Ray puts its own handler in place, which ends the process instead of the run.
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def train(
    config: RunConfig,
    *,
    log: Logging,
    stop: threading.Event,
    show: Callable[[RunStatus], None],
) -> RunStatus:
    """Run until the work is done or `stop` is set; the last status.

    Args:
        config: The run.
        log: Logging of the actors.
        stop: Set by a signal handler; the learners finish their step and checkpoint.
        show: Called about once a second with the newest status.

    Raises:
        OnlineSwavError: If the run failed in a way that its message explains.
    """
    with _ray_session(config):
        cluster = Cluster(config, log)
        try:
            return _watch(config, cluster, log, stop, show)
        finally:
            cluster.close()


def _watch(
    config: RunConfig,
    cluster: Cluster,
    log: Logging,
    stop: threading.Event,
    show: Callable[[RunStatus], None],
) -> RunStatus:
    outcome: list[BaseException] = []
    thread = threading.Thread(
        target=_fit, args=(config, cluster, log, outcome), name="ray-train", daemon=True
    )
    thread.start()
    asked_at: float | None = None
    while thread.is_alive():
        if stop.is_set() and asked_at is None:
            asked_at = time.monotonic()
        if asked_at is not None:
            _get(cluster.status.request_stop.remote())
        if asked_at is not None and time.monotonic() - asked_at > ORDERLY_STOP_S:
            raise RunFailed(
                f"the learners did not stop within {ORDERLY_STOP_S:.0f} s; the newest checkpoint "
                "is whole, and the same command resumes from it"
            )
        thread.join(timeout=0.2 if asked_at else 1.0)
        if asked_at is None and thread.is_alive():
            cluster.replace_dead_readers()
        status = cluster.snapshot()
        if asked_at is None:
            cluster.resize(status)
        show(status)
    status = cluster.snapshot()
    if status.state == "failed":
        _linger(config, cluster, status, stop, show)
    if status.given_up:
        raise GivenUp(status.message)
    if status.state == "failed":
        raise RunFailed(status.message)
    if outcome:
        raise outcome[0]
    return status


def _linger(
    config: RunConfig, cluster: Cluster, ended: RunStatus, stop: threading.Event,
    show: Callable[[RunStatus], None],
) -> None:  # fmt: skip
    """Serve metrics on, so that Prometheus sees how the run has ended."""
    if ended.learner is None:  # it never began: whoever started it is still looking
        return
    until = time.monotonic() + config.metrics.linger_s
    if config.metrics.linger_s:
        logger.error("failed: %s Metrics are served for %g s more, or until the run is stopped.",
                     ended.message, config.metrics.linger_s)  # fmt: skip
    if ended.given_up and config.act.when_given_up == "hold":
        until = float("inf")
        logger.error("holding: %s Stop the run when you have looked.", ended.message)
    while time.monotonic() < until and not stop.wait(1.0):
        cluster.keep_status()
        # A status actor that has restarted must know it again.
        _get(cluster.status.finished.remote(ended.message, failed=True, given_up=ended.given_up))
        show(cluster.snapshot())


def _fit(config: RunConfig, cluster: Cluster, log: Logging, outcome: list[BaseException]) -> None:
    """Ray Train in a thread, so that its own SIGINT handler is not installed."""
    try:
        # Ray's own annotation of the decorated class knows no range yet.
        workers: Any = config.learners
        if config.max_learners is not None:
            workers = (config.learners, config.max_learners)
        on_gpu = config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        loop_config = {"config": config, "ledger": cluster.ledger, "status": cluster.status,
                       "set_up": partial(Logging.set_up, log)}  # fmt: skip
        TorchTrainer(
            learner_loop,
            train_loop_config=loop_config,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=on_gpu,
                resources_per_worker={"CPU": 1} | ({"GPU": 1} if on_gpu else {}),
            ),
            run_config=TrainRunConfig(
                name="ray_train",
                storage_path=str(Path(config.run).resolve()),
                # The status actor ends a crash loop; a crash now and then is to be survived.
                failure_config=FailureConfig(max_failures=-1),
            ),
        ).fit()
    except BaseException as error:
        outcome.append(error)
