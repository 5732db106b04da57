"""The whole system under random faults, then the lineage image by image.

    python benchmarks/soak.py --minutes 30 --seed 0 --out benchmarks/results/soak.json

A producer writes shards (some of them damaged) while two learner ranks and one to two ingest actors
train on them. Every few seconds one fault: kill -9 of a process or of all of them, or a reader
frozen past its lease. At the end the stream is trained to its end, the book verified, and the log
of what every step trained is compared with the shards. Exit code 1 if an image was lost or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from measuring import machine, write_json
from rich.console import Console
from rich.table import Table

from online_swav.books import totals, verify
from online_swav.testing import judge_lineage, lineage_log
from streams.testing import truncate, write_test_shards

CONFIG = """
crops:
- {size: 32, num: 2, scale: [0.3, 1.0]}
- {size: 16, num: 2, scale: [0.1, 0.3]}
discovery: {poll_s: 0.5, settle_s: 2.0}
ingest: {actors: 1, max_actors: 2, batch_size: 16, window: 64, open_shards: 2, lease_s: 4.0}
learners: 2
learner:
  model: {hidden_dim: 32, embedding_dim: 16, num_prototypes: 16}
  codes: {freeze_prototypes_steps: 2}
  queue: {length: 128}
  optim: {kind: sgd, lr: 0.01}
  schedule: {warmup_steps: 2}
  health: {window_images: 256}
checkpoint: {every_steps: 25, every_s: 10}
elastic: {cooldown_s: 10}
threads: 1
device: cpu
"""
ROLES = {
    "driver": "online_swav train",
    "ingest": "IngestActor",
    "learner": "TrainWorker",
    "ledger": "LedgerActor",
    "status": "StatusActor",
}
# How often a fault is drawn, and whether the learners start anew after it.
FAULTS = {
    "kill ingest actor": (3, False),
    "kill learner rank": (3, True),
    "kill ledger actor": (2, False),
    "kill status actor": (1, False),
    "kill driver": (1, True),
    "kill everything": (1, True),
    "freeze reader past its lease": (2, False),
    "damaged shard": (1, False),
}
RECOVERY_LIMIT_S = 240.0


@dataclass
class Soak:
    """One run folder, its process, its producer, and what was done to them."""

    folder: Path
    rng: random.Random
    process: subprocess.Popen[bytes] | None = None
    faults: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    starts: int = 0

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def stream(self) -> Path:
        """Where shards land."""
        return self.folder / "stream"

    def start(self, *options: str) -> None:
        """Start, or resume, the run."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with (self.folder / "output.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "online_swav", "train", "--run", str(self.run),
                 "--source", f"soak={self.stream}", "--config", str(self.folder / "soak.yaml"),
                 "--metrics.port", str(port),
                 "--observer", "online_swav.testing:LineageRecorder", *options],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.starts += 1

    def processes(self, role: str) -> list[psutil.Process]:
        """The living processes of a role."""
        assert self.process is not None
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if ROLES[role] in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def last_line(self) -> tuple[int, int]:
        """Size of the lineage log, and the generation of its last whole line."""
        log = lineage_log(self.run)
        if not log.exists():
            return 0, 0
        size = log.stat().st_size
        with log.open("rb") as file:
            file.seek(max(size - 65536, 0))
            lines = file.read().splitlines()
        return size, json.loads(lines[-1])["generation"] if lines else 0

    def wait_for_steps(self, *, new_generation: bool) -> float | None:
        """Seconds until a step is logged again, by newer learners if need be; None at the limit."""
        begun = time.monotonic()
        size, generation = self.last_line()
        while (seconds := time.monotonic() - begun) < RECOVERY_LIMIT_S:
            now_size, now_generation = self.last_line()
            if now_generation > generation or (not new_generation and now_size > size):
                return seconds
            if self.process is not None and self.process.poll() is not None:
                raise SystemExit(f"the run ended:\n{self.tail()}")
            time.sleep(0.1)
        return None

    def tail(self) -> str:
        """The end of what the run printed."""
        return (self.folder / "output.txt").read_text()[-3000:]

    def inject(self, name: str) -> bool:
        """Do one fault; whether there was something to do it to."""
        rng = self.rng
        if name == "damaged shard":
            place = self.folder / f"damaged-{self.faults[name]}"
            (path,) = write_test_shards(
                place, shards=1, samples_per_shard=30, seed=rng.getrandbits(30)
            )
            if rng.random() < 0.3:
                path.write_bytes(rng.randbytes(2048))
            else:
                truncate(path, rng.randrange(600, path.stat().st_size))
            path.rename(self.stream / f"{place.name}.tar")
            return True
        if name == "kill everything":
            assert self.process is not None
            root = psutil.Process(self.process.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
            return True
        if name == "kill driver":
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            return True
        role = {"kill ingest actor": "ingest", "freeze reader past its lease": "ingest",
                "kill learner rank": "learner", "kill ledger actor": "ledger",
                "kill status actor": "status"}[name]  # fmt: skip
        candidates = self.processes(role)
        if not candidates:
            return False
        victim = rng.choice(candidates)
        if name.startswith("freeze"):
            victim.send_signal(signal.SIGSTOP)
            time.sleep(6.0)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGCONT)
        else:
            victim.kill()
        return True

    def memory_mb(self) -> dict[str, int]:
        """Resident MB by role; of several processes the largest."""
        found = {}
        for role in ROLES:
            sizes = []
            for process in self.processes(role):
                with contextlib.suppress(psutil.NoSuchProcess):
                    sizes.append(process.memory_info().rss)
            if sizes:
                found[role] = round(max(sizes) / 2**20)
        return found


def soak(
    minutes: float, seed: int, folder: Path, every_s: tuple[float, float]
) -> dict[str, object]:
    """Run it; the result for the table and the JSON."""
    rng = random.Random(seed)
    state = Soak(folder, rng)
    state.stream.mkdir()
    (folder / "soak.yaml").write_text(CONFIG)
    producer = subprocess.Popen(
        [sys.executable, "-m", "online_swav", "synth", str(state.stream), "--every-s", "4",
         "--samples-per-shard", "150", "--size", "32", "--seed", str(seed)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    unrecovered = 0
    try:
        state.start()
        state.wait_for_steps(new_generation=True)
        time.sleep(15)
        memory_start = state.memory_mb()
        begun = time.monotonic()
        while time.monotonic() - begun < 60 * minutes:
            time.sleep(rng.uniform(*every_s))
            name = rng.choices(list(FAULTS), [weight for weight, _ in FAULTS.values()])[0]
            if not state.inject(name):
                continue
            state.faults[name] += 1
            if name in ("kill driver", "kill everything"):
                state.start()
            seconds = state.wait_for_steps(new_generation=FAULTS[name][1])
            if seconds is None:
                unrecovered += 1
                print(f"no step within {RECOVERY_LIMIT_S:.0f} s after: {name}", file=sys.stderr)
            else:
                state.recovery_s[name].append(seconds)
                print(f"{time.monotonic() - begun:6.0f} s  {name}: steps again after "
                      f"{seconds:.1f} s", flush=True)  # fmt: skip
        memory_end = state.memory_mb()
    finally:
        producer.terminate()
        producer.wait()
    assert state.process is not None
    state.process.send_signal(signal.SIGINT)
    if state.process.wait(timeout=180) != 0:
        raise SystemExit(f"the run did not stop in order:\n{state.tail()}")
    state.start("--when-idle", "stop")
    if state.process.wait(timeout=1800) != 0:
        raise SystemExit(f"the run did not end in order:\n{state.tail()}")
    report = judge_lineage(state.run)
    counts = totals(state.run)["soak"]
    return {
        "minutes": minutes, "seed": seed, "starts": state.starts,
        "faults": dict(state.faults), "unrecovered": unrecovered,
        "recovery_s": {name: {"median": round(statistics.median(s), 1), "max": round(max(s), 1)}
                       for name, s in state.recovery_s.items()},
        "lineage": asdict(report), "dropped": sum(counts.dropped.values()),
        "shards": counts.shards, "samples_known": counts.samples_known,
        "verify": verify(state.run),
        "memory_mb_start": memory_start, "memory_mb_end": memory_end,
        "machine": machine("ray", "torch"),
    }  # fmt: skip


def print_result(result: dict[str, object]) -> None:
    """The tables."""
    console = Console()
    faults = Table(title=f"{result['minutes']} minutes of faults, seed {result['seed']}")
    for name in ("fault", "times", "median recovery s", "max s"):
        faults.add_column(name, justify="left" if name == "fault" else "right")
    times, recovery = result["faults"], result["recovery_s"]
    assert isinstance(times, dict)
    assert isinstance(recovery, dict)
    for name, number in sorted(times.items()):
        of = recovery.get(name, {})
        faults.add_row(name, str(number), str(of.get("median", "")), str(of.get("max", "")))
    console.print(faults)
    lineage = result["lineage"]
    assert isinstance(lineage, dict)
    console.print(
        f"{sum(times.values())} faults, {result['unrecovered']} without recovery; "
        f"trained {lineage['trained']:,}, trained again after rollback {lineage['rolled_back']:,}, "
        f"dropped {result['dropped']}, shards {result['shards']}\n"
        f"lost = {lineage['lost']}, double = {lineage['double']}, stray = {lineage['stray']}; "
        f"ledger verify: {result['verify'] or 'every invariant holds'}\n"
        f"resident MB at the start {result['memory_mb_start']}\n"
        f"resident MB at the end   {result['memory_mb_end']}",
        highlight=False,
    )


def main() -> int:
    """Parse, run, print, write; 1 when the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-s", type=float, nargs=2, default=(2.0, 8.0),
                        help="seconds between a recovery and the next fault")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(options.minutes, options.seed, Path(folder), tuple(options.every_s))
    print_result(result)
    write_json(options.out, result)
    lineage = result["lineage"]
    assert isinstance(lineage, dict)
    broken = lineage["lost"] or lineage["double"] or lineage["stray"] or result["verify"]
    return 1 if broken or result["unrecovered"] else 0


if __name__ == "__main__":
    sys.exit(main())
