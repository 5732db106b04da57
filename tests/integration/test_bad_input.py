"""What a person gets wrong: one clear message and exit 2, before anything starts."""

import subprocess
import sys

import pytest

from online_swav.config import RunConfig, to_yaml


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "online_swav", *map(str, arguments)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("trian", "Perhaps you meant train"),
        ("train", "--run DIR is needed"),
        ("train --run {tmp}/run", "--source PLACE is needed"),
        ("train --run {tmp}/run --source {tmp}/nowhere", "nowhere"),
        ("train --run {tmp}/run --source {tmp} --preset imagenete", "perhaps you meant imagenette"),
        ("train --run {tmp}/run --source {tmp} --config {tmp}/none.yaml", "cannot read the config"),
        ("train --run {tmp}/run --source {tmp} --learner.codes.epsilonn 1", "epsilon"),
        ("train --run {tmp}/run --source {tmp} --learner.codes.iterations x", "iterations"),
        ("train --run {tmp}/run --source {tmp} --learners 0", "learners must be at least 1"),
        ("train --run {tmp}/run --source a={tmp} --source a={tmp}", "given twice"),
        (
            "train --run {tmp}/run --source {tmp} --when-idle stop",
            "no shard found: looked for *.tar",
        ),
        ("train --run {tmp}/run --source x.zip", "does not exist"),
        ("status --run {tmp}", "is no run folder"),
        ("ledger --run {tmp}", "is no run folder"),
        ("evaluate knn --run {tmp}", "is no run folder"),
        ("pack {tmp}/nowhere {tmp}/out", "nowhere"),
        ("pack {tmp} {tmp}/out", "no image"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_2(tmp_path, arguments, expected):
    done = command(*arguments.format(tmp=tmp_path).split())
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_of_another_config_names_the_fields(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(RunConfig(seed=1)))
    done = command("train", "--run", run, "--source", tmp_path, "--seed", "2")
    assert done.returncode == 2
    assert "seed: 1 -> 2" in done.stderr


def test_help_comes_without_torch_or_ray():
    done = command("train", "--help")
    assert done.returncode == 0
    assert "--learner.codes.iterations" in done.stdout
    assert command().returncode == 2
    assert "demo" in command("--help").stdout
