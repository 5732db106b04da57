"""The benchmarks of a GPU machine run, stop and go on, at toy size. No timing is asserted."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from online_swav.books import totals
from online_swav.errors import ConfigError
from streams.counts import SourceCounts
from streams.errors import LedgerError
from streams.synthetic import write_synthetic_shard

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"
OTHER_PART = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("--setting", "--sizes", "--device", "--official", "--out"):
    parser.add_argument(name)
options = parser.parse_args()
if options.official:
    sys.exit(3)
pathlib.Path(options.out).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(options.out).write_text(str(vars(options)))
"""


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, samples in (("train-00000", 24), ("train-00001", 24), ("val-00000", 12)):
        write_synthetic_shard(folder / f"{name}.tar", num_samples=samples, seed=0,
                              shard_index=len(list(folder.glob("*.tar"))))  # fmt: skip
    return folder


@pytest.fixture
def benchmarks(tmp_path):
    """`gpu.py` beside parts of which two are quick stand-ins."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("gpu.py", "imagenette.py", "measuring.py"):
        shutil.copy(BENCHMARKS / name, folder)
    for name in ("step.py", "sinkhorn.py"):
        (folder / name).write_text(OTHER_PART)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the `main` of a script in this process: code, output, errors."""

    def run(script, *options):
        monkeypatch.syspath_prepend(script.parent)
        spec = importlib.util.spec_from_file_location(script.stem, script)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, script.stem, module)
        monkeypatch.setattr(sys, "argv", [script.name, *map(str, options)])
        spec.loader.exec_module(module)
        try:
            code = module.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def start(script, *options):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def trained(folder):
    """Images that the book says are trained; 0 before there is a book."""
    try:
        return totals(folder).get("imagenette", SourceCounts()).trained
    except (ConfigError, LedgerError):
        return 0


def test_imagenette_goes_on_where_it_stopped(images, tmp_path, call):
    """Stopped in order in its middle; the second command ends it."""
    options = ("--images", images, "--run", tmp_path / "run", "--out", tmp_path / "out.json",
               "--preset", "demo", "--passes", 4, "--batch-size", 12, "--readers", 1,
               "--device", "cpu", "--minutes", 3)  # fmt: skip
    first = start(BENCHMARKS / "imagenette.py", *options)
    while trained(tmp_path / "run") < 24:
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    output, errors = first.communicate(timeout=60)
    assert first.returncode == os.EX_TEMPFAIL, errors
    assert "run the same command again" in output
    assert not (tmp_path / "out.json").exists()

    second = start(BENCHMARKS / "imagenette.py", *options)
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "lightly, 200 epochs" in output
    result = json.loads((tmp_path / "out.json").read_text())
    before, after = json.loads((tmp_path / "run" / "progress.json").read_text())["commands"]
    assert 2 <= before["steps"] < after["steps"] == result["steps"] == 16
    assert result["images_trained"] == 4 * 48
    assert result["commands"] == 2
    assert set(result["knn"]) == {"k20", "k200"}
    assert all(0 <= f["final"] <= f["best"] <= 1 for f in result["knn"].values())
    assert [p["step"] for p in result["probes"]] == [0, before["steps"], 16]
    assert result["training_s"] + result["probing_s"] <= result["wall_s"] + 0.2
    assert 0 <= result["waiting_share"] <= 1
    assert str(tmp_path) not in (tmp_path / "out.json").read_text()

    code, _, errors = call(BENCHMARKS / "imagenette.py", *options, "--passes", 6)
    assert code == 2
    assert "give the same options, or another --run" in errors


def test_all_parts_over_several_commands(images, benchmarks, tmp_path, call, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    out = tmp_path / "out"
    options = ("--images", images, "--out", out, "--work", tmp_path / "work", "--device", "cpu",
               "--toy")  # fmt: skip
    code, output, _ = call(benchmarks / "gpu.py", *options, "--minutes", 0.5)
    assert code == os.EX_TEMPFAIL
    assert "left: step, sinkhorn, imagenette; run the same command again" in output
    assert not out.exists()

    code, output, errors = call(benchmarks / "gpu.py", *options)
    assert code == 0, output + errors
    assert sorted(path.name for path in out.iterdir()) == [
        "imagenette.json", "sinkhorn.json", "step.json"
    ]  # fmt: skip
    assert "'setting': 'toy'" in (out / "step.json").read_text()
    assert "'sizes': 'toy', 'device': 'cpu'" in (out / "sinkhorn.json").read_text()

    code, output, _ = call(benchmarks / "gpu.py", *options)
    assert code == 0
    assert output.count("done before") == 3


def test_a_part_that_fails_does_not_hold_up_the_others(images, benchmarks, tmp_path, call):
    out = tmp_path / "out"
    out.mkdir()
    (out / "imagenette.json").write_text("{}")
    code, output, _ = call(benchmarks / "gpu.py", "--images", images, "--out", out, "--toy",
                          "--device", "cpu", "--official", tmp_path)  # fmt: skip
    assert code == 1
    assert "step: failed, exit code 3" in output
    assert "sinkhorn: failed, exit code 3" in output


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--device", "cuda"], "--device cuda: torch sees no GPU here"),
        (["--images", "."], "there is no train-*.tar in ."),
        (["--official", "nowhere"], "--official: there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line(images, tmp_path, call, monkeypatch, options, error):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, errors = call(BENCHMARKS / "gpu.py", "--images", images, "--out", tmp_path / "out",
                          *options)  # fmt: skip
    assert code == 2
    assert errors == f"gpu.py: {error}\n"
