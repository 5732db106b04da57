"""The benchmark of the whole pipeline runs, and what it reports makes sense. No time asserted."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streams.testing import write_test_shards

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).parents[2]
TINY = """
crops:
- {size: 32, num: 2, scale: [0.3, 1.0]}
ingest: {batch_size: 16, window: 32}
learner: {model: {hidden_dim: 16, embedding_dim: 8, num_prototypes: 8}}
report_every_s: 0.1
threads: 1
device: cpu
"""


def run(folder, *options):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "end_to_end.py"), "--repetitions", "1",
         "--out", str(folder / "result.json"), *options],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def read(folder):
    text = (folder / "result.json").read_text()
    assert str(folder) not in text
    return json.loads(text)


def in_order(spread):
    return 0 <= spread["min"] <= spread["median"] <= spread["max"]


def test_growth_is_measured_and_other_parts_stay(tmp_path):
    (tmp_path / "result.json").write_text('{"date": "2026-01-01", "feed": {"ratio": 0.5}}')
    done = run(tmp_path, "--parts", "growth", "--run-images", "64", "--shards", "10", "20",
               "--prototypes", "8", "--queue", "0", "64", "--queue-prototypes", "8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Growth: shards in a folder" in done.stdout
    result = read(tmp_path)
    assert set(result) == {"date", "feed", "growth"}
    assert result["feed"] == {"ratio": 0.5}
    assert result["date"] != "2026-01-01"
    studies = result["growth"]["studies"]
    assert [study["sizes"] for study in studies.values()] == [[64], [10, 20], [8], [0, 64]]
    for study in studies.values():
        assert all(in_order(of) for values in study["costs"].values() for of in values)
        assert all(rate > 0 for rate in study["images_per_s"])
        assert all(mb > 50 for mb in study["memory_mb"])
        for exponents in study["exponents"].values():
            assert len(exponents) == len(study["sizes"]) - 1


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--images", "nowhere/*.tar"], "make it first, or correct the path"),
        (["--images", "{}"], "matches no tar; give a folder of tars or a glob"),
        (["--parts", "feed"], "--images is missing: give a folder or glob of tars"),
        (["--parts", "growth", "--shards", "9", "9"], "--shards: give sizes that increase"),
        (["--parts", "growth", "--config", "missing.yaml"], "--config: cannot read the config"),
        (["--parts", "growth", "--out", "{}/text"], "is no JSON of this benchmark"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, monkeypatch, options, advice):
    (tmp_path / "text").write_text("no JSON")
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    options = [option.format(tmp_path) for option in options]
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", *options])
    with pytest.raises(SystemExit, match=re.escape(advice)) as ended:
        importlib.import_module("end_to_end").main()
    assert "\n" not in str(ended.value)


def check_store(part):
    assert part["sample"] == "tars"
    assert part["store"]["image_bytes"] == 3 * (2 * 224**2 + 6 * 96**2)
    assert all(in_order(of) for of in part["store"]["us_per_image"].values())
    assert all(in_order(of) for of in part["images_per_s"].values())


@pytest.mark.chaos  # each start of Ray takes seconds
def test_actors_are_measured(tmp_path):
    write_test_shards(tmp_path / "tars", shards=2, samples_per_shard=24)
    done = run(tmp_path, "--parts", "actors", "--images", str(tmp_path / "tars"),
               "--turn-images", "48", "--learner-batch", "8", "--step-ms", "10")  # fmt: skip
    assert done.returncode == 0, done.stderr
    actors = read(tmp_path)["actors"]
    check_store(actors)
    assert [row["actors"] for row in actors["waiting"]] == [1, 2, 1, 2]
    assert all(in_order(row["measured"]) and row["measured"]["max"] <= 1
               for row in actors["waiting"])  # fmt: skip
    learners = [row["learner_images_per_s"] for row in actors["cores_for"]]
    assert learners == sorted(learners)
    assert 800.0 in learners


@pytest.mark.chaos
def test_the_feed_and_a_real_run_are_measured(tmp_path):
    write_test_shards(tmp_path / "tars", shards=2, samples_per_shard=24)
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = run(tmp_path, "--parts", "feed", "waiting", "--images", str(tmp_path / "tars"),
               "--turn-images", "48", "--batch", "8", "--steps", "30", "--warm-up", "1",
               "--config", str(tmp_path / "tiny.yaml"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    feed, waiting = (read(tmp_path)[part] for part in ("feed", "waiting"))
    check_store(feed)
    assert feed["ratio"] > 0
    assert set(feed["reader_cpu_us_per_image"]) == {"in process", "over Ray"}
    assert waiting["changed"]
    assert waiting["steps"] >= 1
    assert 0 <= waiting["waiting"] <= 1
    assert waiting["ingest_cores_needed"] > 0
