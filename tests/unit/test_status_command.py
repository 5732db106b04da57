"""`online-swav status`: from the folder or from anywhere, once or again and again."""

import json
import os
import socket
import time

import pytest
from status_example import status

from online_swav.commands.status import status as command
from online_swav.commands.status import watch
from online_swav.console import status_from_json, status_json
from online_swav.errors import ConfigError
from online_swav.metrics_server import serve_metrics


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "status.json").write_text(status_json(status(run="mine")))
    return tmp_path


@pytest.fixture(scope="module")
def port():
    server = serve_metrics(lambda: status(run="far"), host="127.0.0.1", port=0)
    yield server.port
    server.close()


def test_a_run_is_shown_from_its_folder_and_from_its_port(run, port, capsys):
    assert command(["--run", str(run)]) == 0
    assert "online-swav mine: training" in capsys.readouterr().out
    for url in (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", f"http://127.0.0.1:{port}/x?y"):
        assert command(["--url", url]) == 0
        assert "online-swav far: training" in capsys.readouterr().out


def test_json_is_the_whole_snapshot(run, port, capsys):
    for place in (["--run", str(run)], ["--url", f"127.0.0.1:{port}"]):
        assert command([*place, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["learner"]["step"] == 1200


def old(run, age_s):
    """The snapshot was written so long ago."""
    at = time.time() - age_s
    os.utime(run / "status.json", (at, at))


@pytest.mark.parametrize(("state", "gone"), [("training", True), ("stopped", False)])
def test_a_run_that_died_is_said_to_be_gone(run, capsys, state, gone):
    (run / "status.json").write_text(status_json(status(run="mine", state=state)))
    old(run, 720)
    assert command(["--run", str(run)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert ("online-swav mine: GONE for 12 min, was training" in shown) == gone
    assert ("it ended without a word. The same command resumes it" in shown) == gone
    assert command(["--run", str(run), "--json"]) == 0
    text = capsys.readouterr().out
    assert 720 <= json.loads(text)["age_s"] < 780
    assert status_from_json(text).run == "mine"


def test_a_snapshot_that_is_late_tells_its_age(run, capsys):
    old(run, 12)
    assert command(["--run", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "online-swav mine: training" in shown
    assert "This snapshot is 12 s old." in shown


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "file:///etc/passwd", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match=r"--url .*write it as http://HOST:PORT"):
        command(["--url", url])


def test_mistakes_are_said_in_words(run, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot connect to http://127.0.0.1:\d+: .*Is the run"):
        command(["--url", f"127.0.0.1:{free_port()}"])
    with pytest.raises(ConfigError, match="is no run folder"):
        command(["--run", str(tmp_path / "gone")])
    (run / "status.json").write_text('{"run": 1}')
    with pytest.raises(ConfigError, match="is no snapshot of an online-swav run of this version"):
        command(["--run", str(run)])
    (run / "status.json").unlink()
    with pytest.raises(ConfigError, match="has not reported yet"):
        command(["--run", str(run)])


def test_another_server_is_no_run():
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.handle_request, daemon=True).start()
    try:
        with pytest.raises(ConfigError, match=r"is no online-swav run: it answers 501"):
            command(["--url", f"127.0.0.1:{server.server_port}"])
    finally:
        server.server_close()


def test_two_places_or_none_are_refused(run, capsys):
    for wrong in ([], ["--run", str(run), "--url", "x:1"]):
        with pytest.raises(SystemExit) as caught:
            command(wrong)
        assert caught.value.code == 2
    capsys.readouterr()


class Clock:
    """Pauses for nobody: does something at each pause, and is interrupted after the last."""

    def __init__(self, *things):
        self.things = list(things)

    def __call__(self, _seconds):
        if not self.things:
            raise KeyboardInterrupt
        self.things.pop(0)()


def watched(run, pause, **options):
    from functools import partial

    from online_swav.commands.status import _look_into_folder

    with pytest.raises(KeyboardInterrupt):
        watch(partial(_look_into_folder, run), pause=pause, **options)


def test_into_a_pipe_it_prints_a_line_whenever_something_changed(run, capsys):
    path = run / "status.json"

    def stop():
        path.write_text(status_json(status(state="stopped", learner_up=False)))

    watched(run, Clock(lambda: None, lambda: None, path.unlink, lambda: None, stop))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "status state=training" in lines[0]
    assert "has not reported yet" in lines[1], "a run may come and go"
    assert "status state=stopped" in lines[2]


def test_whoever_watches_is_told_once_that_it_has_gone(run, capsys):
    watched(run, Clock(lambda: old(run, 60), lambda: old(run, 61), lambda: old(run, 62)))
    here, gone = capsys.readouterr().out.splitlines()
    assert "status state=training" in here
    assert "status state=gone was=training" in gone
    old(run, 0)
    watched(run, Clock(lambda: old(run, 60), lambda: old(run, 61)), as_json=True)
    here, gone = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert here["age_s"] < 30 < gone["age_s"]


def test_as_json_every_line_is_a_snapshot(run, capsys):
    path = run / "status.json"
    watched(run, Clock(lambda: None, path.unlink), as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["run"] == "mine"


def test_in_a_terminal_it_draws_the_panel(run, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    watched(run, Clock((run / "status.json").unlink))
    text = " ".join(capsys.readouterr().out.split())
    assert "online-swav mine" in text
    assert "Ctrl-C ends this view, not the run." in text
    assert "(trying again)" in text


def test_ctrl_c_is_the_orderly_end(run, monkeypatch, capsys):
    monkeypatch.setattr("online_swav.commands.status.watch", lambda *_, **__: Clock()(0))
    assert command(["--run", str(run), "--watch"]) == 0
    assert capsys.readouterr().out == ""
