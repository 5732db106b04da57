"""`doctor` and the start of `train`: exit codes, what is printed, what is left behind."""

import json
import socket

import pytest

from online_swav.cli import main
from online_swav.console import Logging
from online_swav.events import read_events
from streams.testing import write_test_shards

TINY = """
crops: [{size: 32, num: 2, scale: [0.3, 1.0]}, {size: 24, num: 1, scale: [0.1, 0.3]}]
ingest: {batch_size: 16}
learner:
  model: {hidden_dim: 16, embedding_dim: 8, num_prototypes: 16}
  optim: {kind: sgd, lr: 0.05}
threads: 1
device: cpu
metrics: {port: 0}
"""


@pytest.fixture
def options(tmp_path):
    """Of a run that could start; what is appended wins."""
    write_test_shards(tmp_path / "in", shards=2, samples_per_shard=20)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return ["--run", str(tmp_path / "run"), "--source", f"s={tmp_path / 'in'}",
            "--config", str(tmp_path / "tiny.yaml")]  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """What `train` would have run, in place of running it."""
    runs = []

    class Session:
        def __init__(self, config, **_):
            runs.append(config)

        def run(self):
            return 0

    monkeypatch.setattr("online_swav.session.Session", Session)
    monkeypatch.setattr(Logging, "set_up", lambda _: None)
    return runs


@pytest.fixture
def own_threads(monkeypatch):
    """Doctor sets them for its process, which here is everybody's."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    yield
    torch.set_num_threads(threads)


def about_the_recipe(run):
    """Events without those about the machine, whose disk may be full, or which may be busy."""
    return [event for event in read_events(run) if event["check"] == "images_per_prototype"]


HOPELESS = ("--learner.model.num-prototypes", "999", "--learner.queue.length", "0")


def test_doctor_looks_at_everything_and_writes_nothing(options, own_threads, tmp_path, capsys):
    assert main(["doctor", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["exit"] == 0
    found = {check["name"]: check for check in report["checks"]}
    assert list(found) == [
        "versions", "run_folder", "images_per_prototype", "cores", "load", "disk",
        "metrics_port", "source", "reader_speed", "learner_speed", "throughput",
    ]  # fmt: skip
    assert "40 images read" in found["source"]["text"]
    assert "images/s on 1 CPU thread (" in found["learner_speed"]["text"]
    assert "per step of 16 images" in found["learner_speed"]["text"]
    assert not (tmp_path / "run").exists()


def test_doctor_prints_a_table_and_exits_4_when_a_run_would_not_start(options, capsys, monkeypatch):
    from online_swav.preflight import learner_speed

    monkeypatch.setattr(learner_speed, "_time_steps", lambda *_: (16, 0.5))
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["doctor", *options, *HOPELESS]) == 4
    table = capsys.readouterr().out
    assert "REFUSED  images per prototype  (batch + queue) / K = (16 + 0) / 999 = 0.02" in table
    assert "ok       learner speed         a learner trains 32 images/s" in table
    assert "11 checks: 1 refused" in table
    assert "would not start (--force makes it start)" in " ".join(table.split())
    assert main(["doctor", *options, *HOPELESS, "--force"]) == 0
    assert "forced: (batch + queue)" in capsys.readouterr().out


def test_what_train_takes_for_a_mistake_is_one_for_doctor(capsys, tmp_path):
    assert main(["doctor", "--run", str(tmp_path)]) == 2
    assert "--source PLACE is needed" in capsys.readouterr().err
    assert main(["doctor", "--run", "x", "--source", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist; make the folder first" in capsys.readouterr().err


def test_a_refused_start_runs_nothing_and_may_be_corrected(options, tmp_path, started, capsys):
    run = tmp_path / "run"
    assert main(["train", *options, *HOPELESS]) == 4
    assert started == []
    errors = capsys.readouterr().err
    assert "REFUSED: images_per_prototype: (batch + queue) / K = (16 + 0) / 999" in errors
    assert errors.endswith("not started: correct what is refused above (--force makes it start)\n")
    (event,) = about_the_recipe(run)
    assert event.items() >= {
        "event": "preflight", "level": "refusal", "check": "images_per_prototype"
    }.items()  # fmt: skip
    assert "999" in event["text"]
    # The refused options are not the run's: corrected ones are no other run's.
    assert main(["train", *options]) == 0
    assert started[0].learner.model.num_prototypes == 16
    assert (run / "config.yaml").exists()


def test_a_forced_start_runs_with_a_warning(options, tmp_path, started, capsys):
    assert main(["train", *options, *HOPELESS, "--force"]) == 0
    assert started[0].learner.model.num_prototypes == 999
    assert "warning: images_per_prototype: forced: " in capsys.readouterr().err
    (event,) = about_the_recipe(tmp_path / "run")
    assert event["level"] == "warning"


def test_a_start_with_nothing_to_say_says_nothing(options, tmp_path, started, capsys, monkeypatch):
    monkeypatch.setattr("online_swav.preflight.checks.machine_checks", lambda _: [])
    monkeypatch.setattr("online_swav.preflight.checks.disk_checks", lambda _: [])
    assert main(["train", *options]) == 0
    assert capsys.readouterr().err == ""
    assert list(read_events(tmp_path / "run")) == []


def test_a_held_port_is_refused_before_anything_starts(options, started, capsys):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        assert main(["train", *options, "--metrics.port", port]) == 4
        assert main(["train", *options, "--metrics.port", port, "--force"]) == 4
    assert started == [], "no force opens a port that is held"
    errors = capsys.readouterr().err
    assert "give another --metrics.port" in errors
    assert errors.endswith("refused above (--force does not help with metrics port)\n")


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_is_no_run_folder(options, tmp_path, capsys, monkeypatch, name):
    from online_swav.preflight import learner_speed

    monkeypatch.setattr(learner_speed, "_time_steps", lambda *_: (16, 0.5))
    monkeypatch.setenv("COLUMNS", "500")
    (tmp_path / "file").touch()
    options[1] = str(tmp_path / name)
    assert main(["doctor", *options, "--force"]) == 4
    table = capsys.readouterr().out
    assert f"{tmp_path / 'file'} is a file, and no folder can be made there" in table
    assert "would not start (--force does not help with run folder)" in table
    assert main(["train", *options]) == 2
    assert "cannot make the run folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("name", ["file", "empty", "missing"])
def test_what_is_no_run_folder_is_said(tmp_path, capsys, command, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert main([command, "--run", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == (
        f"online-swav {command}: {tmp_path / name} is no run folder: it has no config.yaml\n"
    )


def test_config_prints_what_is_wrong_with_the_recipe(options, capsys):
    assert main(["config", *options, *HOPELESS]) == 0
    printed = capsys.readouterr()
    assert "num_prototypes: 999" in printed.out
    assert printed.err.startswith("# refusal: images_per_prototype: (batch + queue) / K")
