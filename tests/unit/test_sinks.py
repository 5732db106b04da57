"""Curves go to the sinks' own libraries, and no sink can end or delay a run."""

import importlib.util
import logging
import math
import threading
import time
from importlib.machinery import ModuleSpec

import pytest

from online_swav import sinks
from online_swav.config import RunConfig, load_yaml
from online_swav.errors import ConfigError
from online_swav.presets import preset
from online_swav.sink_libraries import recipe
from online_swav.sinks import Sinks, numbers, open_sinks, require_libraries


class RecordingSink:
    """Keeps what it is given; fails at the steps in `fails`."""

    def __init__(self, fails=(), wait=None):
        self.rows, self.closed = [], False
        self.fails, self.wait = fails, wait

    def log(self, values, step):
        if self.wait is not None:
            self.wait.wait()
        if step in self.fails:
            raise RuntimeError(f"server away at step {step}")
        self.rows.append((step, values))

    def close(self):
        self.closed = True


@pytest.fixture
def warned(caplog, monkeypatch):
    """Messages of the module, also when another test has configured the loggers."""
    monkeypatch.setattr(logging.getLogger("online_swav"), "propagate", True)
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def row(step, **values):
    return {"at": 1e9, "step": step, "generation": 3, "verdict": "ok"} | values


@pytest.fixture
def config(tmp_path):
    return preset("demo", run=str(tmp_path), sinks=("tensorboard", "wandb", "mlflow"))


# -- the thread of the sinks -----------------------------------------------------------------------


def test_every_sink_gets_every_row_of_a_new_step(warned):
    one, two = RecordingSink(), RecordingSink()
    all_of_them = Sinks({"one": lambda: one, "two": lambda: two})
    for step in (1, 2, 2, 3, 1):  # idle at step 2; rolled back to step 1
        all_of_them.log(row(step, loss=1 / step))
    all_of_them.log({"at": 1e9, "lag_s": 5.0})  # no learner yet
    all_of_them.close()
    assert one.rows == two.rows == [
        (step, {"loss": 1 / step}) for step in (1, 2, 3, 1)
    ]  # fmt: skip
    assert one.closed
    assert two.closed
    assert warned() == []


def test_a_sink_that_fails_is_dropped_with_one_line_and_the_others_go_on(warned):
    bad, good = RecordingSink(fails=(2, 3)), RecordingSink()
    both = Sinks({"bad": lambda: bad, "good": lambda: good})
    for step in (1, 2, 3, 4):
        both.log(row(step))
    both.close()
    assert [step for step, _ in bad.rows] == [1]
    assert [step for step, _ in good.rows] == [1, 2, 3, 4]
    assert not bad.closed
    assert warned() == ["sink_dropped sink=bad error='server away at step 2'"]


def test_a_sink_that_cannot_be_opened_is_dropped(warned):
    def refuse():
        raise ValueError("no key")

    good = RecordingSink()
    both = Sinks({"bad": refuse, "good": lambda: good})
    both.log(row(1))
    both.close()
    assert [step for step, _ in good.rows] == [1]
    assert warned() == ["sink_dropped sink=bad error='no key'"]


def test_a_server_that_hangs_delays_nothing(warned):
    answers = threading.Event()
    slow = RecordingSink(wait=answers)
    one = Sinks({"slow": lambda: slow})
    begun = time.monotonic()
    for step in range(sinks.MOST_WAITING + 10):
        one.log(row(step))
    one.close(timeout_s=0.05)
    assert time.monotonic() - begun < 5, "it would wait for ever"
    assert [line.split(":")[0] for line in warned()] == ["sinks_behind", "sinks_left_behind"]
    answers.set()


def test_nothing_is_opened_without_a_row():
    opened = []
    Sinks({"one": lambda: opened.append(1)}).close()
    Sinks({}).log(row(1))
    assert opened == []


def test_only_finite_numbers_are_handed_on():
    mixed = row(7, loss=2, up=True, word="x", gone=math.nan, none=None, rate=0.5)
    assert numbers(mixed) == {"loss": 2.0, "rate": 0.5}


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)], ids=["none", "a folder"])
def test_a_missing_library_names_its_extra(monkeypatch, found):
    """A folder `wandb/`, as its runs leave it, passes for a package of that name."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found if name == "wandb" else real(name)
    )
    require_libraries(("tensorboard",))
    with pytest.raises(ConfigError, match=r"--sinks wandb: .* pip install 'online-swav\[wandb\]'"):
        require_libraries(("tensorboard", "wandb"))


def test_unknown_and_repeated_sinks_are_mistakes(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("sinks: [tensorbord]")
    with pytest.raises(ConfigError, match=r"sinks.0: .*'tensorboard', 'wandb' or 'mlflow'"):
        load_yaml(path, RunConfig())
    path.write_text("sinks: [wandb, wandb]")
    with pytest.raises(ConfigError, match="names one twice: wandb, wandb"):
        load_yaml(path, RunConfig())


def test_the_recipe_is_flat_and_holds_no_places(config):
    flat = recipe(config)
    assert flat["learner.model.num_prototypes"] == 48
    assert flat["learner.codes.epsilon.start"] == 0.01
    assert flat["batch_size"] == 64
    assert '"size": 32' in flat["crops"]
    assert not any(str(config.run) in str(value) for value in flat.values())
    assert all(isinstance(value, str | int | float | None) for value in flat.values())


# -- the real libraries ----------------------------------------------------------------------------


def write(config, name, steps):
    one = Sinks({name: open_sinks(config)._openers[name]})
    for step in steps:
        one.log(row(step, loss=1 / step))
    one.close()


def test_tensorboard_shows_the_curve_that_survived(config, tmp_path, warned):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(config, "tensorboard", (1, 2, 3, 2, 3, 4))  # rolled back once
    write(config, "tensorboard", (4, 5))  # resumed
    folder = EventAccumulator(str(tmp_path / "tensorboard"))
    folder.Reload()
    assert folder.Tags()["scalars"] == ["loss"]
    curve = {event.step: round(event.value, 3) for event in folder.Scalars("loss")}
    assert curve == {1: 1.0, 2: 0.5, 3: 0.333, 4: 0.25, 5: 0.2}
    assert not [line for line in warned() if "sink" in line]


def test_tensorboard_brings_no_torch_into_the_status_actor(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\nfrom online_swav.presets import preset\n"
        "from online_swav.sink_libraries import TensorBoardSink\n"
        f"sink = TensorBoardSink(preset('demo', run={str(tmp_path)!r}))\n"
        "sink.log({'loss': 1.0}, 1); sink.close()\n"
        "print(*{'torch', 'ray', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_wandb_goes_on_in_one_run(config, tmp_path, monkeypatch, warned):
    pytest.importorskip("wandb", reason="pip install 'online-swav[wandb]' to test its sink")
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    try:
        write(config, "wandb", (1, 2, 1))
        write(config, "wandb", (2, 3))
    finally:
        wandb.teardown()
    assert not [line for line in warned() if "sink" in line]
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    assert len({path.name for path in runs}) == 1, "one id"
    assert all(b"loss" in path.read_bytes() for path in runs)


def test_mlflow_goes_on_in_one_run(config, tmp_path, monkeypatch, warned):
    pytest.importorskip("mlflow", reason="pip install 'online-swav[mlflow]' to test its sink")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    write(config, "mlflow", (1, 2, 1))
    write(config, "mlflow", (2, 3))
    assert not [line for line in warned() if "sink" in line]
    client = MlflowClient()
    experiment = client.get_experiment_by_name("online-swav")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["learner.model.num_prototypes"] == "48"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (1, 1.0), (2, 0.5), (1, 1.0), (2, 0.5), (3, 1 / 3),
    ]  # fmt: skip
