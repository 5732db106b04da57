"""A run as its user starts it, and what it says of its own waiting (`end_to_end.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from end_to_end_feeds import Reader, Turns, write_stream
from measuring import by_turns, spread

from online_swav.config import load_yaml
from online_swav.presets import preset

PRESET = "imagenette-cpu"
READ_AT_LEAST = 8
"""Batches of a turn in which ingest is measured apart."""


def measure_waiting(
    pattern: str, folder: Path, *, steps: int, warm_up: int, config: Path | None, repetitions: int
) -> dict[str, Any]:
    """Shares of the learner's time between warm-up and end, and what ingest alone could deliver.

    Args:
        pattern: Of the tars.
        folder: For what is written.
        steps: That are watched.
        warm_up: Steps before those.
        config: YAML over the preset.
        repetitions: Of ingest alone.
    """
    run = folder / "run"
    command = [
        sys.executable, "-m", "online_swav", "train", "--preset", PRESET,
        *(["--config", str(config)] if config else []),
        "--source", f"images={pattern}", "--run", str(run), "--when-idle", "replay",
        "--stop-after-steps", str(warm_up + steps), "--metrics.port", "0", "--quiet",
    ]  # fmt: skip
    reports = [r for r in _watch(command, folder, run / "status.json") if r["step"] >= warm_up]
    if len(reports) < 2:
        sys.exit("the run ended before it said anything after its warm-up: give more --steps")
    first, last = reports[0], reports[-1]
    took = last["reported_at"] - first["reported_at"]
    phases = {name: round((last["phase_s"][name] - first["phase_s"][name]) / took, 4)
              for name in last["phase_s"]}  # fmt: skip
    rate = (last["samples_seen"] - first["samples_seen"]) / took
    used = preset(PRESET) if config is None else load_yaml(config, preset(PRESET))
    size = used.ingest.batch_size
    turns = Turns(used.crops, size, size * (READ_AT_LEAST + 2), repetitions)
    stream = folder / "stream"
    write_stream(pattern, stream, images=turns.images, per_shard=size)
    alone = by_turns({"": Reader(stream, folder, turns).images_per_s}, repetitions)[""]
    return {
        "preset": PRESET, "changed": config is not None, "ingest_actors": used.ingest.actors,
        "steps": last["step"] - first["step"], "seconds": round(took, 1),
        "images_per_s": round(rate, 1), "waiting": phases["wait"],
        "waiting_by_report": spread((r["wait_ratio"] for r in reports[1:]), 4),
        "phase_share": phases, "ingest_images_per_s": spread(alone),
        "ingest_cores_needed": round(rate / spread(alone)["median"], 3),
    }  # fmt: skip


def _watch(command: list[str], folder: Path, status: Path) -> list[dict[str, Any]]:
    """The learner's reports while the command runs, each once."""
    # A Ray of its own, also where the caller has a cluster.
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    reports: dict[float, dict[str, Any]] = {}
    output = folder / "output.txt"
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        while process.poll() is None:
            time.sleep(0.2)
            learner = json.loads(status.read_text())["learner"] if status.exists() else None
            if learner and learner["state"] in ("training", "idle"):
                reports[learner["reported_at"]] = learner
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        sys.exit(f"the run ended with {process.returncode}:\n{output.read_text()[-2000:]}")
    return [reports[at] for at in sorted(reports)]
