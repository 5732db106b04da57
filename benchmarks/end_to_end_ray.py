"""Ingest through Ray: what the journey costs, and how many actors feed a learner (`end_to_end.py`).

The actors are those of a run (`Cluster`), and the consumer asks as a learner does (`RemoteFeed`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from end_to_end_feeds import (
    ALL_CORES,
    CONSUMER_CORE,
    Reader,
    Taken,
    Turns,
    consume,
    pretend_step,
    take,
    touch,
    write_stream,
)
from measuring import by_turns, ratio, spread

from online_swav.cluster import Cluster
from online_swav.config import MetricsConfig, RunConfig
from online_swav.console import Logging
from online_swav.ranks_on_ray import RemoteFeed
from streams.batch import Batch
from streams.config import IngestConfig, SourceConfig

SMALLEST_STORE = 100 * 10**6
JUST_FED = 0.9
"""Of what two actors deliver: a learner that takes all of it waits at every hiccup."""
TRANSFERS = 20
"""Journeys of one batch, per repetition."""
ROUNDS = 3
"""Times that all of the store is written before it counts as used."""


class Rig:
    """The actors of a run, each pinned to a core; the caller takes the learner's place."""

    def __init__(self, stream: Path, folder: Path, turns: Turns, *, actors: int) -> None:
        self._actors = actors
        self.reader = Reader(stream, folder, turns)
        """The same images without Ray."""
        # Before the turns: they are to meet a store that has been in use for a while.
        self.journeys = journeys(self.reader, turns, store_bytes(turns, actors))
        run = folder / "run"
        run.mkdir()
        self._config = RunConfig(
            run=str(run), source=(f"stream={stream}",), crops=turns.families,
            discovery=SourceConfig(settle_s=0.0), metrics=MetricsConfig(port=0),
            ingest=IngestConfig(actors=actors, batch_size=turns.batch),
        )  # fmt: skip
        self._cluster = Cluster(self._config, Logging(json=True, file=str(folder / "run.log")))
        _, readers = ray.get(self._cluster.status.readers.remote(-1))
        self.pids = [ray.get(readers[name].__ray_call__.remote(lambda _actor: os.getpid()))
                     for name in sorted(readers)]  # fmt: skip
        for process in psutil.Process().children(recursive=True):
            _pin(process.pid, CONSUMER_CORE)  # Ray itself, the ledger, the status
        for number, pid in enumerate(self.pids):
            _pin(pid, {ALL_CORES[number % len(ALL_CORES)]})

    def feed(self, actors: int) -> RemoteFeed:
        """All images once more, from one actor or from all of them."""
        generation = ray.get(self._cluster.ledger.begin.remote(0))
        # As rank 0 of as many ranks as there are actors, this consumer is dealt the first one.
        ranks = self._actors if actors == 1 else 1
        return RemoteFeed(self._cluster.status, generation=generation, rank=0, ranks=ranks,
                          in_flight=self._config.ingest.in_flight)  # fmt: skip

    def close(self) -> None:
        """End the actors."""
        self._cluster.close()


def _pin(pid: int, cores: set[int]) -> None:
    """All threads of a process: an actor works in another one than its first."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def rig(pattern: str, folder: Path, turns: Turns, *, actors: int) -> Iterator[Rig]:
    """A stream, a Ray that ends with us, and the actors; this process on the consumer's core."""
    if turns.batches < 2:
        sys.exit(
            f"--turn-images {turns.images} is too few for batches of {turns.batch}: "
            f"give at least {3 * turns.batch}"
        )
    stream = folder / "stream"
    write_stream(pattern, stream, images=turns.images,
                 per_shard=max(1, turns.images // (8 * actors)))  # fmt: skip
    size = store_bytes(turns, actors)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=actors + 1, object_store_memory=size,
             include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
             _node_ip_address="127.0.0.1")  # fmt: skip
    try:
        opened = Rig(stream, folder, turns, actors=actors)
        os.sched_setaffinity(0, CONSUMER_CORE)
        yield opened
        opened.close()
    finally:
        ray.shutdown()
        os.sched_setaffinity(0, ALL_CORES)


def store_bytes(turns: Turns, actors: int) -> int:
    """Room for all batches at once, twice: requests ahead, one in use, one on its way."""
    at_once = turns.batch * turns.image_bytes * (actors * IngestConfig().in_flight + 2)
    return max(2 * at_once, SMALLEST_STORE)


def measure_feed(pattern: str, folder: Path, turns: Turns) -> dict[str, Any]:
    """One actor and its consumer beside the same reader in process, by turns."""
    with rig(pattern, folder, turns, actors=1) as opened:
        readers = {"in process": os.getpid(), "over Ray": opened.pids[0]}
        cpu: dict[str, list[float]] = {name: [] for name in readers}

        def run(name: str, images_per_s: Callable[[], float]) -> float:
            before = _cpu_s(readers[name])
            rate = images_per_s()
            cpu[name].append(1e6 * (_cpu_s(readers[name]) - before) / turns.images)
            return rate

        def over_ray() -> float:
            return consume(opened.feed(1), turns.batches, touch).images_per_s

        ways = {"in process": opened.reader.images_per_s, "over Ray": over_ray}
        rates = by_turns({name: partial(run, name, way) for name, way in ways.items()},
                         turns.repetitions)  # fmt: skip
        return {
            "batch": turns.batch, "turn_images": turns.images, "repetitions": turns.repetitions,
            "images_per_s": {name: spread(values) for name, values in rates.items()},
            "ratio": ratio(rates["over Ray"], rates["in process"]),
            "reader_cpu_us_per_image": {name: spread(took[1:]) for name, took in cpu.items()},
            "store": store(opened, turns, statistics.median(rates["over Ray"])),
        }  # fmt: skip


def _cpu_s(pid: int) -> float:
    """Processor time of a process: unlike a rate, it hardly depends on who else is at work."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def measure_actors(
    pattern: str, folder: Path, turns: Turns, *, step_s: float, learners: Sequence[float]
) -> dict[str, Any]:
    """One and two actors: what they deliver, whom that feeds, and whether a learner agrees.

    Args:
        pattern: Of the tars.
        folder: For what is written.
        turns: A batch is that of the learner that only sleeps.
        step_s: Seconds of its step.
        learners: Images per second of other learners, to say how many cores feed them.
    """
    with rig(pattern, folder, turns, actors=2) as opened:
        rates = _one_and_two(opened, turns, touch, lambda taken: taken.images_per_s)
        supply = {actors: statistics.median(values) for actors, values in rates.items()}
        given, just_fed = turns.batch / step_s, JUST_FED * supply[2]
        waiting = []
        for learner in (given, just_fed):
            use = partial(pretend_step, step_s=turns.batch / learner)
            waits = _one_and_two(opened, turns, use, lambda taken: taken.waiting)
            waiting += [
                {"learner_images_per_s": round(learner, 1), "actors": actors,
                 "predicted": round(max(0.0, 1 - supply[actors] / learner), 3),
                 "measured": spread(waits[actors], 3)}
                for actors in waits
            ]  # fmt: skip
        return {
            "batch": turns.batch, "turn_images": turns.images, "repetitions": turns.repetitions,
            "step_ms": round(1e3 * step_s, 1),
            "images_per_s": {str(actors): spread(values) for actors, values in rates.items()},
            "two_by_one": ratio(rates[2], rates[1]),
            "cores_for": [
                {"learner_images_per_s": round(learner, 1),
                 "from_one": math.ceil(learner / supply[1]),
                 "from_two": math.ceil(learner / (supply[2] / 2))}
                for learner in sorted({given, just_fed, *learners})
            ],
            "waiting": waiting,
            "store": store(opened, turns, supply[1]),
        }  # fmt: skip


def _one_and_two(
    opened: Rig, turns: Turns, use: Callable[[Batch], object], measure: Callable[[Taken], float]
) -> dict[int, list[float]]:
    """Measured by turns, by number of actors."""

    def run(actors: int) -> float:
        return measure(consume(opened.feed(actors), turns.batches, use))

    values = by_turns({str(n): partial(run, n) for n in (1, 2)}, turns.repetitions)
    return {int(name): of for name, of in values.items()}


def journeys(reader: Reader, turns: Turns, size: int) -> dict[str, dict[str, float]]:
    """Microseconds per image of a ready batch into the object store, out of it, and touched.

    Memory of the store is slow when it is touched for the first time: `put, new store` is that of
    as many batches as half of it holds.
    """
    batch = take(reader.feed())
    per_round = max(2, size // batch.num_bytes)
    costs: dict[str, list[float]] = {"put, new store": [], "put": [], "get": [], "touch": []}
    for number in range(ROUNDS * per_round + TRANSFERS * turns.repetitions):
        begun = time.perf_counter()
        reference = ray.put(batch)
        put = time.perf_counter()
        arrived = ray.get(reference)
        got = time.perf_counter()
        touch(arrived)
        touched = time.perf_counter()
        if 0 < number <= per_round // 2:  # the very first one opens the store
            costs["put, new store"].append(put - begun)
        elif number >= ROUNDS * per_round:
            costs["put"].append(put - begun)
            costs["get"].append(got - put)
            costs["touch"].append(touched - got)
    return {name: spread((1e6 * s / len(batch) for s in took), 2) for name, took in costs.items()}


def store(opened: Rig, turns: Turns, images_per_s: float) -> dict[str, Any]:
    """What the object store costs, and its part of the time at so many images per second."""
    costs = opened.journeys
    put, get = costs["put"]["median"], costs["get"]["median"]
    return {
        "us_per_image": costs, "put_and_get_us_per_image": round(put + get, 2),
        "image_bytes": turns.image_bytes,
        "mb_per_s": round(images_per_s * turns.image_bytes / 1e6, 1),
        "put_share_of_ingest": round(images_per_s * put / 1e6, 4),
        "get_share_of_consumer": round(images_per_s * get / 1e6, 4),
    }  # fmt: skip
