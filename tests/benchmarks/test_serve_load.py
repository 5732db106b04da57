"""The load test of the served encoder, at toy size: nothing fails across reloads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field` is deprecated"),
]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"


def test_no_request_fails_across_reloads(tmp_path):
    pytest.importorskip("ray.serve", exc_type=ImportError)
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--clients", "4", "--pictures", "8", "--seconds", "3",
         "--reloads", "2", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requests/s" in done.stdout
    result = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    assert (result["failures"], result["reloads"], result["healthz"]) == (0, 2, 200)
    assert list(result["answers_by_step"]) == ["100", "200", "300"]
    assert sum(result["answers_by_step"].values()) == result["requests"] > 0
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
