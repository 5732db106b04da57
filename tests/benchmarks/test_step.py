"""The benchmarks of the step and of Sinkhorn run, and their reports add up. Nothing is timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).parents[2]


def run(script, *arguments, tmp_path):
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / script), *arguments, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    return done, out


def test_the_step_is_split_and_stands_beside_its_ceiling(tmp_path):
    done, out = run("step.py", "--setting", "toy", "--repetitions", "1", "--steps", "1",
                    tmp_path=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "backbone and head" in done.stdout
    result = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    split = result["split"]["bfloat16"]
    assert {"step", "backbone and head", "augment", "Sinkhorn", "claim"} <= set(split["ms"])
    assert 0 < split["share_of_parts_that_are_no_network"] < 1
    peers = result["peers"]
    assert {"ours", "ours in float32", "bare backbone"} <= set(peers["images_per_s"])
    assert peers["ours_by"]["ours"] == 1
    assert all(memory > 0 for memory in peers["peak_memory_mb"].values())


def test_sinkhorn_is_timed_and_judged(tmp_path):
    done, out = run("sinkhorn.py", "--sizes", "toy", "--repetitions", "1", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [(size["B"], size["K"]) for size in result["times"]] == [(32, 20)]
    for case in result["worst_error"].values():
        assert case["ours"] < 1e-5


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("step.py", ("--setting", "toy", "--official", "/nowhere"), "no checkout of"),
        ("sinkhorn.py", ("--official", "/nowhere"), "/nowhere/main_swav.py is missing"),
    ],
)
def test_a_wrong_checkout_is_named(script, arguments, message, tmp_path):
    done, _ = run(script, *arguments, tmp_path=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
