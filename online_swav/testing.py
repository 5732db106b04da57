"""Test doubles and judges of whole runs: an observer that logs the lineage and dies on command."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from online_swav.config import RunConfig
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.observer import Point
from streams.shard import Origin

Identity = tuple[str, int, int]
"""Shard id, index in the shard, pass."""


class LineageRecorder:
    """An `--observer` that logs which images each step trained: `lineage.jsonl` beside the run.

    Environment, for tests of crashes:
        SWAV_DIE_AT: POINT:STEP, where the process kills itself once per run, at the first such
            step or later.
        SWAV_DIE_RANK: The rank that does so; 0 without it.
    """

    def __init__(self, *, run: Path, rank: int, generation: int) -> None:
        self._rank = rank
        self._generation = generation
        self._log = lineage_log(run)
        point, _, step = os.environ.get("SWAV_DIE_AT", "").partition(":")
        mine = rank == int(os.environ.get("SWAV_DIE_RANK", "0"))
        self._die = (point, int(step)) if point and mine else None

    def at(self, point: Point, *, step: int, origins: Sequence[Origin]) -> None:
        """See `Observer`."""
        if point == "after_step":
            ids = [(o.sample.shard_id, o.sample.index, o.pass_number) for o in origins]
            line = {"generation": self._generation, "rank": self._rank, "step": step, "ids": ids}
            # One write with O_APPEND: whole lines, also of a process that is killed next.
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, (json.dumps(line) + "\n").encode())
            finally:
                os.close(descriptor)
        if self._die is not None and point == self._die[0] and step >= self._die[1]:
            try:
                self._log.with_suffix(".died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def lineage_log(run: Path) -> Path:
    """Where `LineageRecorder` writes: beside the run folder, whose disk may be full."""
    return run.with_name(f"{run.name}-lineage.jsonl")


def surviving_lineage(log: Path) -> dict[int, list[Identity]]:
    """What the surviving weights were trained on, by step.

    Every step was last made by the newest generation that made it: a later one either resumed
    above it and kept it, or resumed below it and made it again.
    """
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    newest: dict[int, int] = {}
    for entry in entries:
        newest[entry["step"]] = max(newest.get(entry["step"], 0), entry["generation"])
    steps: dict[int, list[Identity]] = {step: [] for step in sorted(newest)}
    for entry in entries:
        if entry["generation"] == newest[entry["step"]]:
            steps[entry["step"]] += [(shard, index, p) for shard, index, p in entry["ids"]]
    return steps


@dataclass(frozen=True, slots=True)
class LineageReport:
    """The lineage against what the shards hold."""

    trained: int
    """Images of first passes in the surviving weights."""
    replayed: int
    """Images of later passes in them."""
    rolled_back: int
    """Images trained by steps that did not survive: they were read again."""
    lost: int
    """Good images of finished shards that are not in the surviving weights."""
    double: int
    """Images that are in them more than once in one pass."""
    stray: int
    """Images in them that the book does not know as trained."""


def judge_lineage(run: Path) -> LineageReport:
    """Compare the log of `LineageRecorder` with the book of a run that has stopped.

    Steps above the newest checkpoint do not survive. Expected is every sample of every finished
    shard that was not rejected, once per pass.
    """
    log = lineage_log(run)
    newest = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    steps = {s: ids for s, ids in surviving_lineage(log).items() if s <= newest}
    if list(steps) != list(range(1, newest + 1)):
        missing = sorted(set(range(1, newest + 1)) - steps.keys())
        raise ValueError(f"{log} lacks steps {missing[:5]}")
    seen = Counter(identity for ids in steps.values() for identity in ids)
    everything = sum(len(json.loads(line)["ids"]) for line in log.read_text().splitlines())
    with closing(sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
        rejected = {
            (shard, index): pass_number
            for shard, index, pass_number in db.execute(
                "SELECT s.id, r.idx, r.pass FROM rejects r JOIN shards s ON s.number = r.shard")
        }  # fmt: skip
        expected = Counter(
            (shard, index, pass_number)
            for shard, passes, samples in db.execute(
                "SELECT id, pass + 1, num_samples FROM shards WHERE state = 'done' AND retired = 0")
            for pass_number in range(passes)
            for index in range(samples)
            if rejected.get((shard, index), passes) > pass_number
        )  # fmt: skip
        done = {shard for shard, _, _ in expected}
        counted = dict(db.execute("SELECT id, trained + replayed FROM shards"))
    by_shard = Counter(shard for shard, _, _ in seen.elements())
    return LineageReport(
        trained=sum(n for (_, _, p), n in seen.items() if p == 0),
        replayed=sum(n for (_, _, p), n in seen.items() if p > 0),
        rolled_back=everything - seen.total(),
        lost=(expected - seen).total(),
        double=sum(n - 1 for n in seen.values()),
        stray=sum(max(n - counted.get(shard, 0), 0) for shard, n in by_shard.items())
        + sum(1 for identity in seen if identity[0] in done and identity not in expected),
    )


def train_in_child(config: RunConfig, *, die_at: str | None = None) -> int:
    """`train_in_process` in a process of its own, which may kill itself; its exit code.

    Args:
        config: The run. It is observed by `LineageRecorder`.
        die_at: See `LineageRecorder`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once
    process = context.Process(target=_train, args=(config, die_at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(config: RunConfig, die_at: str | None) -> None:
    if die_at is not None:
        os.environ["SWAV_DIE_AT"] = die_at
    observed = dataclasses.replace(config, observer=f"{__name__}:{LineageRecorder.__name__}")
    train_in_process(observed, RecordingDesk())
