"""The benchmark of memory runs, and what it reports makes sense."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_rows_are_written_joined_and_searched(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("embed_memory")
    result = benchmark.measure(tmp_path, total=10_000, dim=16, dtype="float16", seed=0)
    assert result["rows"] == 10_000
    peaks = list(result["peak_mb"].values())
    assert len(peaks) == 13
    assert peaks[-1] - peaks[1] < 60, "what was held for the first tenth is enough for all"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
