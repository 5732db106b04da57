"""What the benchmarks share: contenders by turns, the machine's description, JSON on disk."""

from __future__ import annotations

import json
import os

# Before torch is imported: threads that spin while they wait make wild timings on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch


def machine(*packages: str) -> dict[str, Any]:
    """What it ran on: processor, accelerator, versions of `packages`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(), "cores": psutil.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }  # fmt: skip


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def by_turns(
    contenders: Mapping[str, Callable[[], float]],
    repetitions: int,
    *,
    before: Callable[[int], object] = lambda _repetition: None,
) -> dict[str, list[float]]:
    """What each contender returns, in turns, so that a busy machine hits all alike.

    Args:
        contenders: Name and what to run; it returns its own measure.
        repetitions: Turns that count; one before them warms up.
        before: Called before every run with the number of the turn, to seed.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(repetitions + 1):
        for name, run in contenders.items():
            before(repetition)
            value = run()
            if repetition:
                values[name].append(value)
    return values


def seconds(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Wall time of a call, until the device is done with it."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begun


def spread(values: Iterable[float], digits: int = 1) -> dict[str, float]:
    """Median and ends."""
    values = list(values)
    return {"median": round(statistics.median(values), digits),
            "min": round(min(values), digits), "max": round(max(values), digits)}  # fmt: skip


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median over turns of the ratio within a turn."""
    return round(statistics.median(a / b for a, b in zip(first, second, strict=True)), 3)


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """The result with its date; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {"date": datetime.now(UTC).date().isoformat(), **result}
    path.write_text(json.dumps(dated, indent=1) + "\n")
