"""The story and the curves on disk: whole lines, bounded length, torn lines skipped."""

import dataclasses
import json
import math

from status_example import learner, status

from online_swav.events import Events, events_path, read_events
from online_swav.history import History, history_path, read_history, row
from online_swav.learning.findings import Finding


def test_events_are_read_as_they_were_written(tmp_path):
    events = Events(tmp_path)
    assert list(read_events(tmp_path)) == []
    events.add("started", step=0, ranks=2)
    events.add("action", kind="rollback", reason="loss\nNaN", value=math.nan)
    first, second = read_events(tmp_path)
    assert (first["event"], first["ranks"]) == ("started", 2)
    assert (second["reason"], second["value"]) == ("loss\nNaN", "nan")
    assert first["at"] <= second["at"]


def test_a_torn_line_is_skipped(tmp_path):
    events = Events(tmp_path)
    events.add("started", step=0)
    with events_path(tmp_path).open("a") as file:
        file.write('{"at": 1, "event": "che\n"a word"\n')
    events.add("stopped", step=1)
    assert [e["event"] for e in read_events(tmp_path)] == ["started", "stopped"]


def test_a_disk_that_refuses_does_not_end_the_run(tmp_path, caplog):
    Events(tmp_path / "nowhere").add("started", step=0)
    assert "event_lost" in caplog.text


def test_a_row_holds_what_is_known():
    found = row(status(), now=1000.0)
    assert (found["step"], found["loss_ratio"], found["verdict"]) == (1200, 0.7, "ok")
    assert found["lag_s"] == 60.0
    assert (found["trained"], found["dropped"], found["shards_unread"]) == (28, 2, 1)
    assert found["probe"] == 0.5
    assert all(value is not None for value in found.values())
    silent = row(status(learner_up=False), now=1000.0)
    assert "loss_ratio" not in silent, "a dead learner's numbers are not drawn on"
    assert "loss_ratio" not in row(status(learner=learner(loss_ratio=math.nan)), now=1000.0)


def test_history_is_thinned_in_its_older_half_and_goes_on(tmp_path):
    history = History(tmp_path, most=100)
    for at in range(1000):
        history.add({"at": at})
    times = [entry["at"] for entry in read_history(tmp_path)]
    assert len(times) < 100
    assert times == sorted(times)
    assert times[-20:] == list(range(980, 1000)), "today is kept finely"
    assert times[0] == 0, "weeks ago is kept"
    again = History(tmp_path, most=100)
    again.add({"at": 1000})
    assert len(list(read_history(tmp_path))) == len(times) + 1
    with history_path(tmp_path).open("a") as file:
        file.write("{torn")
    assert len(list(read_history(tmp_path))) == len(times) + 1


def test_findings_of_the_run_join_the_learners():
    finding = Finding(name="starved", value=0.5, healthy="", remedy="")
    joined = status(findings=(finding,)).health
    assert (joined.verdict, joined.findings) == ("degraded", (finding,))
    assert json.dumps(dataclasses.asdict(joined))
    assert status().health.verdict == "ok"
