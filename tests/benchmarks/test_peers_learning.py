"""SwAV beside its peers, at toy size: all methods learn from the same. No accuracy is asserted."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streams.config import CropFamily
from streams.testing import write_test_shards

pytestmark = pytest.mark.benchmark

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OURS = "SwAV, ours"


def run(*arguments, tmp_path):
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers_learning.py"), *arguments, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    return done, out


def test_every_method_sees_as_much_and_says_what_it_keeps(tmp_path):
    done, out = run("--toy", "--images-seen", "64", "--threads", "1", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "floats stored" in done.stdout
    result = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    methods = result["methods"]
    wanted = {OURS}
    if importlib.util.find_spec("lightly") is not None:
        wanted |= {"SwAV, lightly", "SimCLR, lightly", "MoCo v2, lightly"}
        assert methods["MoCo v2, lightly"]["stored_floats"] == 64 * 128
        assert methods["MoCo v2, lightly"]["momentum_floats"] > 11e6
        assert methods["SimCLR, lightly"]["negatives_per_view"] == 2 * 16 - 2
        assert methods["SwAV, lightly"]["crops"] == methods[OURS]["crops"]
    assert set(methods) == wanted
    assert methods[OURS]["stored_floats"] == methods[OURS]["momentum_floats"] == 0
    beginnings = {(f["curve"][0]["knn"], f["curve"][0]["linear"]) for f in methods.values()}
    assert len(beginnings) == 1, "all begin with the same weights"
    for found in methods.values():
        assert [point["images"] for point in found["curve"]] == [0, 32, 64]
        times = [point["train_s"] for point in found["curve"]]
        assert times == sorted(times)
        assert all(0 <= point["knn"] <= 1 and 0 <= point["linear"] <= 1 for point in found["curve"])
        assert found["peak_memory_mb"] > 0
        spent = found["pixels_per_image"] / methods[OURS]["pixels_per_image"]
        assert 0.8 < spent <= 1, "nobody sees more pixels than our SwAV"


def test_the_stream_gives_whole_batches_pass_after_pass(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    stream = importlib.import_module("peers_learning_stream")
    folder = tmp_path / "book"
    folder.mkdir()
    write_test_shards(tmp_path / "shards", shards=2, samples_per_shard=10)
    families = (CropFamily(size=16, num=2, scale=(0.9, 1.0)),)
    batches = stream.batches([str(tmp_path / "shards")], families, batch=8, readers=1, seed=0,
                             folder=folder)  # fmt: skip
    seen = [next(batches)[0].clone() for _ in range(6)]
    batches.close()
    assert all(crops.shape == (2, 8, 3, 16, 16) for crops in seen)
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--images GLOB and --test GLOB are needed, or --toy"),
        (("--toy", "--images-seen", "10"), "must be at least --batch-size times --points"),
        (("--toy", "--preset", "demoo"), "there is no preset 'demoo'"),
        (
            ("--images", "/nowhere/*.tar", "--test", "/nowhere/*.tar"),
            "--images: the folder /nowhere",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(arguments, message, tmp_path):
    done, _ = run(*arguments, tmp_path=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
