"""The book at scale: many readers and ranks on a book with a long history.

    taskset -c 1 python benchmarks/ledger.py --out benchmarks/results/ledger.json

For each size of the history: claims per second, latencies of a reader's calls meanwhile, what a
checkpoint asks of the book, queries, bytes, memory, a copy made while claims go on, and a restore
of a lost book. Every part runs in a process of its own on one history, at full speed: a run that
trains asks far less of its book. Figures are medians; the spread is from the least to the most.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any

from ledger_load import LEASE_S, OPEN_SHARDS, Load, shard, write_history
from measuring import machine, write_json
from rich.console import Console
from rich.table import Table

from streams.ledger import Ledger
from streams.sources import DirectorySource

VERIFY_UP_TO = 100_000  # finished shards; the check reads every row
RELIST_UP_TO = 1_000_000
NEW_SHARDS = 1000


@dataclass(frozen=True)
class Settings:
    """What is put on the book."""

    open: int
    readers: int
    ranks: int
    images: int
    seconds: float
    rounds: int
    checkpoint_steps: int
    files: int
    delta_mb: float


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: median, 99th percentile, least and most, and how many."""
    ordered = sorted(1000 * s for s in seconds)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "min_ms": round(ordered[0], 3), "max_ms": round(ordered[-1], 3), "number": len(ordered),
    }  # fmt: skip


def rates(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round(statistics.median(values)), "min": round(min(values)),
            "max": round(max(values))}  # fmt: skip


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def memory_mb() -> dict[str, float]:
    """Resident megabytes of this process: now, and the most so far."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: round(int(status[key].split()[0]) / 1024, 1)
            for name, key in (("now", "VmRSS"), ("most", "VmHWM"))}  # fmt: skip


# -- the parts, each in a process of its own -------------------------------------------------------


def fill(book: Path, finished: int) -> dict[str, Any]:
    """The history; whether it is sound, and its bytes per shard."""
    seconds = seconds_of(lambda: write_history(book, finished))
    ledger = Ledger(book)
    broken = ledger.verify() if finished <= VERIFY_UP_TO else None
    ledger.close()
    return {"seconds": round(seconds, 1), "broken_invariants": broken,
            "bytes_per_shard": round(book.stat().st_size / finished, 1)}  # fmt: skip


def begin_load(book: Path, finished: int, settings: Settings) -> Load:
    """Readers and ranks on the book of a part."""
    return Load(Ledger(book, lease_s=LEASE_S), known=finished, waiting=settings.open,
                readers=settings.readers, ranks=settings.ranks,
                images=settings.images)  # fmt: skip


def work(book: Path, finished: int, settings: Settings) -> dict[str, Any]:
    """All that a running ledger does."""
    memory = {"imported": memory_mb()["now"]}
    load = begin_load(book, finished, settings)
    ledger = load.ledger
    memory["readers_started"] = memory_mb()["now"]
    result: dict[str, Any] = {"memory_mb": memory, "shards_leased": settings.readers * OPEN_SHARDS}

    per_round = settings.seconds / settings.rounds
    images, calls = [], []
    for _ in range(settings.rounds):
        load.seconds["claim"].clear()
        until = time.perf_counter() + per_round
        while time.perf_counter() < until:
            load.steps(1)
        busy = load.seconds["claim"]
        calls.append(len(busy) / sum(busy))
        images.append(settings.images * calls[-1])
    result["claims_alone"] = {"images_per_s": rates(images), "calls_per_s": rates(calls)}

    load.seconds.clear()
    images, shards = [], []
    for _ in range(settings.rounds):
        claimed, done, begun = load.claimed, load.finished, time.perf_counter()
        load.run_while(lambda begun=begun: time.perf_counter() - begun < per_round)
        elapsed = time.perf_counter() - begun
        images.append((load.claimed - claimed) / elapsed)
        shards.append((load.finished - done) / elapsed)
    result["with_readers"] = {
        "images_per_s": rates(images), "shards_per_s": rates(shards),
        "latency": {name: summary(load.seconds[name])
                    for name in ("claim", "lease", "finish", "renew") if load.seconds[name]},
    }  # fmt: skip

    result["checkpoint"] = checkpoints(load, settings)
    memory["worked"] = memory_mb()["now"]
    result["queries"] = queries(load, settings)
    result["copy"] = stall(load, lambda: ledger.copy_to(book.with_name("copy.sqlite")))
    book.with_name("copy.sqlite").unlink()
    relisted = min(finished, RELIST_UP_TO)
    result["relist"] = {"shards": relisted} | stall(
        load, lambda: ledger.add(map(shard, range(relisted)))
    )
    memory["end"], memory["most"] = memory_mb()["now"], memory_mb()["most"]
    ledger.close()
    return result


def checkpoints(load: Load, settings: Settings) -> dict[str, Any]:
    """What every checkpoint asks of the book, after a fixed amount of work."""
    ledger, spent, sizes, rows = load.ledger, {}, [], []
    spent = {"flush": [], "delta": [], "fold": []}
    since_step = load.step
    since = ledger.delta(step=load.step, since_step=load.step - 1, since_version=2**62).version
    for _ in range(settings.rounds):
        load.steps(settings.checkpoint_steps)
        spent["flush"].append(seconds_of(ledger.flush))
        begun = time.perf_counter()
        delta = ledger.delta(step=load.step, since_step=since_step, since_version=since)
        spent["delta"].append(time.perf_counter() - begun)
        sizes.append(len(delta.to_json()))
        rows.append(sum(len(batch[-1]) for batch in delta.claims) + len(delta.shards))
        since_step, since = load.step, delta.version
        del delta
        spent["fold"].append(seconds_of(lambda: ledger.fold(load.step)))
    return {
        "steps": settings.checkpoint_steps,
        "claims": settings.checkpoint_steps * settings.ranks * settings.images,
        "delta_rows": rates(rows), "delta_bytes": rates(sizes),
        **{name: summary(values) for name, values in spent.items()},
    }  # fmt: skip


def queries(load: Load, settings: Settings) -> dict[str, Any]:
    """Reports, and discovery of new shards."""
    ledger = load.ledger
    batches = [[shard(10**9 * part + number) for number in range(NEW_SHARDS)]
               for part in range(1, 6)]  # fmt: skip

    def counts() -> object:
        return ledger.counts(committed_step=load.step - settings.checkpoint_steps)

    return {
        "counts": summary([seconds_of(counts) for _ in range(20)]),
        "pending": summary([seconds_of(ledger.pending) for _ in range(20)]),
        "new_shards": NEW_SHARDS,
        "add": summary([seconds_of(partial(ledger.add, batch)) for batch in batches]),
    }


def stall(load: Load, call: Callable[[], object]) -> dict[str, Any]:
    """How long a call takes while readers and ranks go on, and what they feel of it."""
    load.seconds.clear()
    taken: list[float] = []
    thread = threading.Thread(target=lambda: taken.append(seconds_of(call)))
    thread.start()
    load.run_while(thread.is_alive)
    thread.join()
    if not taken:
        raise RuntimeError("the call failed; see above")
    return {"seconds": round(taken[0], 2),
            "claim": summary(load.seconds["claim"])}  # fmt: skip


def restore(book: Path, finished: int, settings: Settings) -> dict[str, Any]:
    """A run folder as the product leaves it, whose book is then lost and rebuilt.

    The copy of the book is as old as copies get: the next one is just due.
    """
    from online_swav.books import rebuild, totals, verify
    from online_swav.checkpoint import Checkpoint, Checkpoints
    from online_swav.lineage import Lineage

    run = book.parent
    load = begin_load(book, finished, settings)
    ledger, lineage = load.ledger, Lineage(run)
    checkpoints = Checkpoints(run, keep=2)
    checkpoints.fence(ledger.generation, resumed=None)
    published: list[tuple[int, int]] = [(-1, finished)]

    def publish() -> Checkpoint:
        load.steps(settings.checkpoint_steps)
        ledger.flush()
        parent, version = published[-1]
        delta = ledger.delta(step=load.step, since_step=parent, since_version=version)
        checkpoint = checkpoints.publish(
            step=load.step, samples_seen=load.claimed, parent_step=parent, created_at=time.time(),
            verdict="ok", probes=(), learner_state={}, delta=delta, config_yaml="",
            generation=ledger.generation,
        )  # fmt: skip
        published.append((load.step, delta.version))
        ledger.fold(checkpoints.prune())
        return checkpoint

    ledger.copy_to(lineage.base_path(publish()))
    while not lineage.base_due() and deltas_bytes(run) < 1e6 * settings.delta_mb:
        publish()
    before = totals(run)
    ledger.close()
    deltas = len(published) - 2
    book.unlink()
    seconds = seconds_of(lambda: rebuild(run))
    after = totals(run)
    if any((before[name].trained, before[name].samples_known, sum(before[name].shards.values()))
           != (after[name].trained, after[name].samples_known, sum(after[name].shards.values()))
           for name in before):  # fmt: skip
        raise RuntimeError(f"the restored book differs:\n{before}\n{after}")
    base = lineage.newest_base()
    return {
        "seconds": round(seconds, 2), "deltas": deltas, "bytes_of_deltas": deltas_bytes(run),
        "bytes_of_copy": base.path.stat().st_size if base else 0,
        "broken_invariants": verify(run) if finished <= VERIFY_UP_TO else None,
        "memory_mb_most": memory_mb()["most"],
    }  # fmt: skip


def deltas_bytes(run: Path) -> int:
    """Bytes of the deltas whose checkpoints were pruned."""
    return sum(path.stat().st_size for path in run.glob("ledger_deltas/step-*.json"))


def discover(folder: Path, files: int) -> dict[str, Any]:
    """A folder of many tars, listed for the first time and again."""
    stream = folder / "stream"
    for number in range(files):
        path = stream / f"{number // 1000:06d}" / f"{number:010d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1024))  # an empty tar
        os.utime(path, (1.7e9, 1.7e9))
    ledger = Ledger(folder / "discovered.sqlite")
    source = DirectorySource("stream", str(stream), settle_s=1.0)
    before = memory_mb()["now"]
    first = seconds_of(lambda: ledger.add(source.poll()))
    again = [seconds_of(lambda: ledger.add(source.poll())) for _ in range(3)]
    pending, memory = ledger.pending(), memory_mb()
    ledger.close()
    if pending != files:
        raise RuntimeError(f"{pending} of {files} files were found")
    return {"files": files, "first_ms": round(1000 * first, 1), "again": summary(again),
            "memory_mb": {"before": before, **memory}}  # fmt: skip


# -- the whole -------------------------------------------------------------------------------------


def apart(part: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Run a part in a fresh process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(part, *arguments).result()


def measure(finished: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """All parts on one size of the history."""
    begun = time.monotonic()
    book = folder / "history.sqlite"
    result: dict[str, Any] = {"finished": finished, "fill": apart(fill, book, finished)}
    for part in (work, restore):
        run = folder / "run"
        run.mkdir()
        shutil.copyfile(book, run / "ledger.sqlite")
        result[part.__name__] = apart(part, run / "ledger.sqlite", finished, settings)
        shutil.rmtree(run)
    book.unlink()
    print(f"{finished:,} finished shards: measured in {time.monotonic() - begun:.0f} s",
          file=sys.stderr, flush=True)  # fmt: skip
    return result


def rows(result: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The table's lines: a name, and a cell for each size."""
    work = itemgetter("work")

    def cells(say: Callable[[dict[str, Any]], str]) -> list[str]:
        return [say(size) for size in result["sizes"]]

    def rate(r: dict[str, float]) -> str:
        return f"{r['median']:,} ({r['min']:,} to {r['max']:,})"

    def ms(s: dict[str, float]) -> str:
        return f"{s['median_ms']:,.1f} ({s['min_ms']:,.1f} to {s['max_ms']:,.1f})"

    def latency(name: str) -> Callable[[dict[str, Any]], str]:
        def say(size: dict[str, Any]) -> str:
            s = size["work"]["with_readers"]["latency"].get(name)
            if s is None:
                return "none"
            return f"{s['median_ms']:.2f} / {s['p99_ms']:.2f} / {s['max_ms']:.1f}"

        return say

    def stalled(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda size: (f"{size['work'][name]['seconds']:.1f} s; longest claim "
                             f"{size['work'][name]['claim']['max_ms']:.0f} ms")  # fmt: skip

    return [
        ("claims/s, ranks alone", cells(lambda s: rate(work(s)["claims_alone"]["images_per_s"]))),
        ("claims/s, with readers", cells(lambda s: rate(work(s)["with_readers"]["images_per_s"]))),
        ("shards finished/s", cells(lambda s: rate(work(s)["with_readers"]["shards_per_s"]))),
        *((f"{name}: median / p99 / max ms", cells(latency(name)))
          for name in ("claim", "lease", "finish", "renew")),
        *((f"checkpoint: {name} ms", cells(lambda s, n=name: ms(s["work"]["checkpoint"][n])))
          for name in ("flush", "delta", "fold")),
        ("delta, bytes", cells(lambda s: rate(s["work"]["checkpoint"]["delta_bytes"]))),
        ("counts ms", cells(lambda s: ms(s["work"]["queries"]["counts"]))),
        ("pending ms", cells(lambda s: ms(s["work"]["queries"]["pending"]))),
        (f"add of {NEW_SHARDS:,} new shards ms", cells(lambda s: ms(s["work"]["queries"]["add"]))),
        ("add of known shards", cells(lambda s: f"{s['work']['relist']['shards']:,}: "
                                      + stalled("relist")(s))),
        ("copy while claims go on", cells(stalled("copy"))),
        ("bytes per finished shard", cells(lambda s: f"{s['fill']['bytes_per_shard']:.0f}")),
        ("restore s", cells(lambda s: f"{s['restore']['seconds']:.1f} ({s['restore']['deltas']} "
                            f"deltas, {s['restore']['bytes_of_deltas'] / 1e6:.0f} MB)")),
        ("resident MB: start / end / most", cells(lambda s: "{readers_started} / {end} / {most}"
                                                  .format(**s["work"]["memory_mb"]))),
    ]  # fmt: skip


def print_result(result: dict[str, Any]) -> None:
    """The table."""
    table = Table(title="the book, by finished shards in its history")
    table.add_column("")
    for size in result["sizes"]:
        table.add_column(f"{size['finished']:,}", justify="right")
    for name, values in rows(result):
        table.add_row(name, *values)
    console = Console(width=60 + 40 * len(result["sizes"]))
    console.print(table)
    listed = result["discovery"]
    console.print(
        f"listing a folder of {listed['files']:,} shards: first {listed['first_ms']:,.0f} ms, "
        f"again {listed['again']['median_ms']:,.0f} ms; resident MB {listed['memory_mb']}",
        highlight=False,
    )


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--finished", default="10000,1000000,10000000",
                        help="finished shards in the history, one or more sizes")  # fmt: skip
    parser.add_argument("--open", type=int, default=1000, help="shards that wait for a reader")
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--images", type=int, default=64, help="per claim of a rank")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    parser.add_argument("--rounds", type=int, default=5, help="that a median is taken of")
    parser.add_argument("--checkpoint-steps", type=int, default=50)
    parser.add_argument("--files", type=int, default=100_000, help="in the folder to be listed")
    parser.add_argument("--delta-mb", type=float, default=float("inf"),
                        help="of deltas since the copy that a restore begins with; by default, as "
                        "much as there is when the next copy is due")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = vars(parser.parse_args())
    # Where the result goes says nothing about it, and may be somebody's path.
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()
             if name != "out" and value != parser.get_default(name)]  # fmt: skip
    finished, out = [int(part) for part in options.pop("finished").split(",")], options.pop("out")
    settings = Settings(**options)
    with tempfile.TemporaryDirectory(prefix="ledger-benchmark-") as name:
        folder = Path(name)
        result = {
            "command": " ".join(["python", "benchmarks/ledger.py", *given]),
            "machine": machine() | {"sqlite": sqlite3.sqlite_version},
            "settings": {k: v for k, v in asdict(settings).items() if v != float("inf")},
            "sizes": [measure(number, settings, folder) for number in finished],
            "discovery": apart(discover, folder, settings.files),
        }  # fmt: skip
    print_result(result)
    write_json(out, result)


if __name__ == "__main__":
    main()
