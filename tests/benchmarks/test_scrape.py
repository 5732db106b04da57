"""The benchmark of a scrape runs, and what it reports makes sense. No timing is asserted."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_page_grows_with_the_sources_and_every_scrape_is_timed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    scrape = importlib.import_module("scrape")
    one, three = (scrape.measure(sources, scrapes=20) for sources in (1, 3))
    assert three["series"] - one["series"] == 2 * 24, "24 series for each source"
    assert one["bytes"] > one["bytes_compressed"] > 1000
    assert 0 < one["ms"]["median"] <= one["ms"]["max"]
    assert 0 < one["report_ms"]["median"] <= one["report_ms"]["max"]
