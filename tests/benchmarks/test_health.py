"""The benchmarks of health run, and what they report makes sense."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).parents[2]


def run(script, *options, folder):
    out = folder / "result.json"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / script), *options, "--json", str(out)],
        cwd=folder, env=os.environ | {"COLUMNS": "150"}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def test_a_broken_run_is_named_by_the_right_finding(tmp_path):
    result, table = run("health_runs.py", "--only", "prototypes tied", "--steps", "60",
                        folder=tmp_path)  # fmt: skip
    tied = result["runs"]["prototypes tied"]
    assert tied["steps"] == 60
    assert tied["named_at_step"] == tied["raised"]["duplicate_prototypes"] <= 60
    assert "duplicate_prototypes" in table
    assert "MISSED" not in table


def test_the_cost_of_health_is_measured(tmp_path):
    result, table = run("health_overhead.py", "--turns", "1", "--steps", "2", folder=tmp_path)
    assert set(result["cpu_s_per_step"]) == {"with", "without"}
    assert all(values[0] > 0 for values in result["cpu_s_per_step"].values())
    assert "with / without" in table
