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

from online_swav.errors import ConfigError
from streams.counts import SourceCounts
from streams.errors import LedgerError

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

    def start(self, *options):
        command = [
            sys.executable, "-m", "online_swav", "train", "--run", str(self.folder),
            "--source", f"s={self.source}", "--config", str(self.config),
            "--metrics.port", str(self.port), *options,
        ]  # fmt: skip
        with (self.folder.parent / "output.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
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
