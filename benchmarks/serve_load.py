"""The served encoder under load, across reloads.

    python benchmarks/serve_load.py --out benchmarks/results/serve-load.json
    python benchmarks/serve_load.py --run runs/mine --images 'DIR/val-*.tar' --clients 16

Starts `online-swav serve` on a run folder of its own (a copy of the newest encoder of `--run`, else
random weights). Clients in threads send pictures without a pause, each over a connection that stays
open; meanwhile `--reloads` newer encoders are published, one after the other, and each is waited
for until it answers. A failure is any answer but 200, one that is not finite or of another width,
and one whose features are not those of the step that it names. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, write_json
from rich.console import Console
from rich.table import Table

from online_swav.config import RunConfig, load_yaml, to_yaml
from online_swav.encoder import Encoder
from online_swav.errors import OnlineSwavError
from online_swav.learning.model import SwavModel
from online_swav.presets import preset
from online_swav.published import Published, encoder_card
from online_swav.weights import read_weights
from streams.config import LimitsConfig
from streams.errors import StreamError
from streams.reader import RawSample, ShardReader
from streams.sources import DirectorySource
from streams.testing import jpeg_bytes

START_S = 120.0
RELOAD_S = 60.0
REQUEST_S = 60.0
STEP_APART = 100
TOLERANCE = 1e-3
"""Of a feature beside the encoder's own: batches of another size add in another order."""


@dataclass
class Tally:
    """What the clients saw; each adds to its own, and they are added up at the end."""

    seconds: list[float] = field(default_factory=list)
    steps: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Take over another one's."""
        self.seconds += other.seconds
        self.steps += other.steps
        self.failures += other.failures


class Expected:
    """What each encoder that was published says of each picture."""

    def __init__(self, pictures: Sequence[bytes], folder: Path) -> None:
        self.paths = [folder / f"{number:04d}.jpg" for number in range(len(pictures))]
        for path, data in zip(self.paths, pictures, strict=True):
            path.write_bytes(data)
        self._features: dict[int, torch.Tensor] = {}

    def learn(self, encoder: Path, step: int) -> None:
        """Encode all pictures as a user of `Encoder` would."""
        self._features[step] = Encoder.load(encoder)(self.paths)

    def fault(self, answer: dict[str, Any], picture: int) -> str | None:
        """What is wrong with an answer; None when all is well."""
        wanted = self._features.get(answer["step"])
        if wanted is None:
            return f"step {answer['step']} was never published"
        got = torch.tensor(answer["embedding"])
        if got.shape != wanted[picture].shape or answer["dim"] != len(got):
            return f"{len(got)} features instead of {wanted.shape[1]}"
        if not (got - wanted[picture]).abs().max() < TOLERANCE * (1 + wanted[picture].abs().max()):
            return "features of another encoder than the step says"
        return None


def client(
    port: int, pictures: Sequence[bytes], expected: Expected, tally: Tally,
    stop: threading.Event, first: int,
) -> None:  # fmt: skip
    """Send one picture after the other until told to stop."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_S)
    number = first
    while not stop.is_set():
        picture = number % len(pictures)
        number += 1
        begun = time.perf_counter()
        try:
            connection.request("POST", "/embed", body=pictures[picture])
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            tally.failures[type(error).__name__] += 1
            connection.close()
            continue
        tally.seconds.append(time.perf_counter() - begun)
        if answer.status != 200:
            tally.failures[f"{answer.status}: {body[:200].decode(errors='replace')}"] += 1
            continue
        try:
            found = json.loads(body)
            tally.steps[found["step"]] += 1
            fault = expected.fault(found, picture)
        except (ValueError, KeyError, TypeError) as error:
            fault = f"an answer that is none: {error!r}"
        if fault:
            tally.failures[fault] += 1
    connection.close()


class Publisher:
    """A run folder with one encoder after the other, each a little different from the last.

    Args:
        source: A run to copy the newest encoder of; random weights without.
        folder: Where the run folder is made.
        expected: Learns of each encoder before the service can.
    """

    def __init__(self, source: Path | None, folder: Path, expected: Expected) -> None:
        config = load_yaml(source / "config.yaml", RunConfig()) if source else preset("imagenette")
        self.run = folder / "run"
        self.run.mkdir()
        (self.run / "config.yaml").write_text(to_yaml(config))
        model = config.learner.model
        torch.manual_seed(0)
        self._model = SwavModel(
            backbone=model.backbone, small_stem=model.small_stem, hidden_dim=model.hidden_dim,
            embedding_dim=model.embedding_dim, num_prototypes=model.num_prototypes,
        )  # fmt: skip
        self._card = encoder_card(config, samples_seen=0, verdict="ok", probe=None)
        if source:
            weights = read_weights(source)
            self._model.backbone.load_state_dict(weights.backbone)
            self._card = weights.card or self._card
        self._rehearsal = Published(folder / "rehearsal", keep=1)
        self._published = Published(self.run, keep=3)
        self._expected = expected
        self._step = 0

    @torch.no_grad()
    def publish(self) -> int:
        """Publish the next one; its step."""
        self._step += STEP_APART
        for parameter in self._model.backbone.parameters():
            parameter.mul_(1.01)
        self._expected.learn(self._publish_in(self._rehearsal), self._step)
        self._publish_in(self._published)
        return self._step

    def _publish_in(self, published: Published) -> Path:
        head = {name: value for name, value in self._model.state_dict().items()
                if not name.startswith("backbone.")}  # fmt: skip
        return published.publish(
            self._model.backbone, step=self._step, card=self._card, head=head
        ).path


@contextlib.contextmanager
def served(run: Path, port: int, options: argparse.Namespace, log: Path) -> Iterator[None]:
    """The command, from its first words on that it serves; stopped in order at the end."""
    command = [
        sys.executable, "-m", "online_swav", "serve", "--run", str(run), "--port", str(port),
        "--replicas", str(options.replicas), "--max-batch", str(options.max_batch),
        "--batch-wait-s", str(options.batch_wait_s),
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while "serving " not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise OnlineSwavError(f"the service did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(port: int, path: str) -> tuple[int, bytes]:
    """GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Load, reloads, and what came of it.

    Raises:
        OnlineSwavError: If the service does not start, or a reload does not come.
    """
    pictures = pictures_of(options)
    expected = Expected(pictures, folder)
    publisher = Publisher(options.run, folder, expected)
    publisher.publish()
    port = free_port()
    tallies = [Tally() for _ in range(options.clients)]
    stop = threading.Event()
    reload_s = []
    with served(publisher.run, port, options, folder / "serve.log"):
        threads = [
            threading.Thread(target=client, args=(port, pictures, expected, tally, stop, 7 * i))
            for i, tally in enumerate(tallies)
        ]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        try:
            for _ in range(options.reloads):
                time.sleep(options.seconds / (options.reloads + 1))
                reload_s.append(reload(publisher, tallies, folder))
            time.sleep(max(options.seconds - (time.perf_counter() - begun), 0.5))
            health = ask(port, "/-/healthz")[0]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        taken = time.perf_counter() - begun
    total = Tally()
    for tally in tallies:
        total.add(tally)
    if not total.seconds:
        raise OnlineSwavError(f"no request was answered: {dict(total.failures)}")
    ms = 1e3 * np.array(total.seconds)
    return {
        "clients": options.clients, "replicas": options.replicas, "max_batch": options.max_batch,
        "batch_wait_s": options.batch_wait_s, "pictures": len(pictures),
        "picture_kb": round(sum(map(len, pictures)) / len(pictures) / 1e3, 1),
        "seconds": round(taken, 1), "requests": len(ms),
        "requests_per_s": round(len(ms) / taken, 1),
        "p50_ms": round(float(np.percentile(ms, 50)), 1),
        "p99_ms": round(float(np.percentile(ms, 99)), 1),
        "max_ms": round(float(ms.max()), 1),
        "reloads": len(reload_s), "slowest_reload_s": round(max(reload_s, default=0.0), 2),
        "answers_by_step": {str(step): total.steps[step] for step in sorted(total.steps)},
        "failures": total.failures.total(), "failed_by": dict(total.failures),
        "healthz": health,
    }  # fmt: skip


def reload(publisher: Publisher, tallies: Sequence[Tally], folder: Path) -> float:
    """Publish the next encoder; seconds until a client has an answer of it."""
    step = publisher.publish()
    at = time.perf_counter()
    while not any(tally.steps[step] for tally in tallies):
        if time.perf_counter() - at > RELOAD_S:
            log = (folder / "serve.log").read_text()
            raise OnlineSwavError(f"step {step} was not taken in {RELOAD_S:.0f} s: {log[-1000:]}")
        time.sleep(0.02)
    return time.perf_counter() - at


def pictures_of(options: argparse.Namespace) -> list[bytes]:
    """Of the shards, else made."""
    if not options.images:
        return [jpeg_bytes(seed, (224, 224)) for seed in range(options.pictures)]
    source = DirectorySource("load", options.images, settle_s=0.0)
    source.poll()  # an unfinished look needs a second one
    samples = (
        sample.image
        for shard in source.poll()
        for sample in ShardReader(shard, limits=LimitsConfig())
        if isinstance(sample, RawSample)
    )
    found = list(islice(samples, options.pictures))
    if not found:
        raise OnlineSwavError(f"--images: no picture in {options.images}")
    return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def print_result(result: dict[str, Any], console: Console) -> None:
    """The table."""
    table = Table(title=f"{result['clients']} clients, {result['replicas']} replica(s), "
                  f"{result['reloads']} reloads in {result['seconds']} s")  # fmt: skip
    for column in ("requests", "requests/s", "p50 ms", "p99 ms", "max ms", "failures"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{result['requests']:,}", f"{result['requests_per_s']:,}", f"{result['p50_ms']}",
        f"{result['p99_ms']}", f"{result['max_ms']}", f"{result['failures']}",
    )  # fmt: skip
    console.print(table)
    by_step = ", ".join(f"{step}: {n:,}" for step, n in result["answers_by_step"].items())
    console.print(f"answers by step of the encoder: {by_step}", highlight=False)
    console.print(f"slowest reload, from publishing to a first answer: "
                  f"{result['slowest_reload_s']} s", highlight=False)  # fmt: skip
    for reason, times in result["failed_by"].items():
        console.print(f"failed {times} times: {reason}", highlight=False)


def main() -> int:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="take recipe and newest encoder of this run")
    parser.add_argument("--images", metavar="GLOB", help="send pictures of these shards")
    parser.add_argument("--pictures", type=int, default=64, help="different ones that are sent")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, at least")
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--batch-wait-s", type=float, default=0.01)
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    if min(options.pictures, options.clients) < 1 or options.reloads < 0:
        parser.error("--pictures and --clients must be at least 1, --reloads at least 0")
    torch.set_num_threads(1)
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    try:
        with tempfile.TemporaryDirectory(prefix="serve-load-") as name:
            result = measure(options, Path(name))
    except (OnlineSwavError, StreamError) as error:
        print(f"serve_load.py: {error}", file=sys.stderr)
        return 2
    print_result(result, Console(width=100))
    write_json(options.out, {"machine": machine("ray", "torch", "torchvision"), **result})
    return 1 if result["failures"] or result["healthz"] != 200 else 0


if __name__ == "__main__":
    sys.exit(main())
