"""Real runs in real processes: start, watch, kill, count."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from online_swav.config import CheckpointConfig, RunConfig
from online_swav.errors import ConfigError
from online_swav.learning.config import (
    CodesConfig,
    HealthConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    QueueConfig,
    RampConfig,
    ScheduleConfig,
)
from online_swav.testing import judge_lineage
from streams.config import CropFamily, IngestConfig, SourceConfig
from streams.counts import SourceCounts
from streams.errors import LedgerError
from streams.testing import write_test_shards

TINY = """
when_idle: wait
crops:
- {size: 32, num: 2, scale: [0.3, 1.0]}
- {size: 16, num: 2, scale: [0.1, 0.3]}
discovery: {poll_s: 0.2, settle_s: 1.0}
ingest: {batch_size: 16, window: 32, open_shards: 2, lease_s: 4.0}
learner:
  model: {hidden_dim: 32, embedding_dim: 16, num_prototypes: 16}
  codes: {freeze_prototypes_steps: 2}
  optim: {kind: sgd, lr: 0.05}
  schedule: {warmup_steps: 2}
  health: {window_images: 64}
checkpoint: {every_steps: 5}
metrics: {linger_s: 0}
report_every_s: 0.2
threads: 1
device: cpu
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Run:
    """One run folder and the process that trains in it."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        self.source = source
        self.port = free_port()
        self.process = None
        self.config = folder.parent / "tiny.yaml"
        self.config.write_text(TINY)

    def start(self, *options, **environment):
        """Train in the background; keyword arguments go into the environment."""
        command = [
            sys.executable, "-m", "online_swav", "train", "--run", str(self.folder),
            "--source", f"s={self.source}", "--config", str(self.config),
            "--metrics.port", str(self.port),
            "--observer", "online_swav.testing:LineageRecorder", *options,
        ]  # fmt: skip
        with (self.folder.parent / "output.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        return self

    def output(self):
        return (self.folder.parent / "output.txt").read_text()

    def status(self):
        try:
            return json.loads((self.folder / "status.json").read_text())
        except (OSError, ValueError):
            return {}

    def books(self):
        """Totals of source s, read from the book itself; empty ones before there is a book."""
        from online_swav.books import totals

        try:
            return totals(self.folder).get("s", SourceCounts())
        except (ConfigError, LedgerError):
            return SourceCounts()

    def wait_until(self, condition, *, seconds=90):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        assert condition(), self.output()[-4000:]

    def step(self):
        learner = self.status().get("learner") or {}
        return learner.get("step", 0)

    def tree(self):
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def processes(self, name):
        """Those of the tree whose command line holds `name`, as Ray calls its workers."""
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def finish(self, *options, seconds=150):
        """Start again, train to the end of the stream, leave."""
        self.start("--when-idle", "stop", *options)
        assert self.process.wait(timeout=seconds) == 0, self.output()[-4000:]

    def assert_exactly_once(self, images):
        """Every image of `images` good ones is once in the surviving weights."""
        assert self.verify() == []
        report = judge_lineage(self.folder)
        assert (report.trained, report.lost, report.double, report.stray) == (images, 0, 0, 0)
        counts = self.books()
        assert counts.samples_known == counts.trained + sum(counts.dropped.values())
        assert (counts.trained, counts.uncommitted) == (images, 0)
        return report

    def kill_tree(self):
        """SIGKILL to every process of the run at once."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=30)

    def stop(self, number=signal.SIGINT, *, seconds=90):
        os.kill(self.process.pid, number)
        return self.process.wait(timeout=seconds)

    def verify(self):
        from online_swav.books import verify

        return verify(self.folder)


@pytest.fixture
def run(tmp_path):
    source = tmp_path / "shards"
    source.mkdir()
    run = Run(tmp_path / "run", source)
    yield run
    if run.process is not None and run.process.poll() is None:
        run.kill_tree()


@pytest.fixture
def config(tmp_path):
    """A run of 90 images in 12 steps, for one process."""
    return _small_config(tmp_path)


@pytest.fixture(scope="module")
def module_config(tmp_path_factory):
    """The same in a folder of the whole test module."""
    return _small_config(tmp_path_factory.mktemp("module"))


def _small_config(folder):
    write_test_shards(folder / "in", shards=3, samples_per_shard=30, labels=lambda i: i % 3)
    return RunConfig(
        run=str(folder / "run"),
        source=(f"s={folder / 'in'}",),
        when_idle="stop",
        device="cpu",
        threads=1,
        crops=(CropFamily(size=32, num=2, scale=(0.3, 1.0)),
               CropFamily(size=16, num=2, scale=(0.1, 0.3))),
        discovery=SourceConfig(poll_s=0.1, settle_s=0.1),
        ingest=IngestConfig(batch_size=8, window=16, open_shards=2),
        learner=LearnerConfig(
            model=ModelConfig(hidden_dim=16, embedding_dim=8, num_prototypes=8),
            codes=CodesConfig(epsilon=RampConfig(start=0.05, end=0.05), freeze_prototypes_steps=2),
            queue=QueueConfig(length=16),
            optim=OptimConfig(kind="sgd", lr=0.05),
            schedule=ScheduleConfig(warmup_steps=2),
            health=HealthConfig(window_images=32),
        ),
        checkpoint=CheckpointConfig(every_steps=4),
    )  # fmt: skip
