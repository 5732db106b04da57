"""The benchmark of the book runs, and what it reports makes sense. No timing is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).parents[2]


def test_the_ledger_benchmark_measures_every_part_on_sound_books(tmp_path):
    out = tmp_path / "ledger.json"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "ledger.py"), "--finished", "30,300",
         "--open", "20", "--readers", "3", "--ranks", "2", "--images", "8", "--seconds", "0.2",
         "--rounds", "2", "--checkpoint-steps", "3", "--files", "20",
         "--delta-mb", "0.003", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "claims/s, with readers" in done.stdout
    result = json.loads(out.read_text())
    assert set(result) == {"command", "date", "machine", "settings", "sizes", "discovery"}
    assert str(tmp_path) not in out.read_text()
    assert result["discovery"]["files"] == 20
    assert [size["finished"] for size in result["sizes"]] == [30, 300]
    for size in result["sizes"]:
        assert size["fill"]["broken_invariants"] == []
        assert size["fill"]["bytes_per_shard"] > 0
        assert size["restore"]["broken_invariants"] == []
        assert size["restore"]["deltas"] > 0
        assert size["restore"]["bytes_of_copy"] > 0
        work = size["work"]
        assert work["shards_leased"] == 12
        assert work["checkpoint"]["claims"] == 3 * 2 * 8
        assert work["checkpoint"]["delta_rows"]["min"] >= 3 * 2 * 8
        assert work["with_readers"]["images_per_s"]["min"] > 0
        assert work["relist"]["shards"] == size["finished"]
        for latency in work["with_readers"]["latency"].values():
            assert latency["min_ms"] <= latency["median_ms"] <= latency["p99_ms"]
            assert latency["p99_ms"] <= latency["max_ms"]
