"""The story: what happened in sentences, routine folded, whatever the lines of the file hold."""

from typing import get_args

import pytest

from online_swav.events import ACTION_KINDS, EventName
from online_swav.history import History, read_history
from online_swav.report.events import Event
from online_swav.report.segments import reporting_segments, segments
from online_swav.report.story import ACTIONS, entries
from online_swav.report.timeline import finding_spans


def event(at, name, /, **fields):
    return Event(float(at), name, fields)


def test_neighbouring_checkpoints_and_probes_are_one_line():
    told = entries([
        event(0, "started", step=0, generation=1, ranks=2),
        event(10, "checkpoint", step=500, verdict="ok", size_bytes=1_000_000),
        event(11, "published", step=500),
        event(20, "probe", step=600, knn_accuracy=0.3),
        event(30, "checkpoint", step=1000, verdict="degraded", size_bytes=1_000_000),
        event(40, "probe", step=1200, knn_accuracy=0.41),
        event(50, "stopped", step=1200, reason="asked to"),
    ])  # fmt: skip
    assert [entry.title for entry in told] == [
        "Started", "2 checkpoints, 1 encoder published, 2 probes", "Stopped",
    ]  # fmt: skip
    assert (told[1].at, told[1].until, told[1].routine) == (10, 40, True)
    for part in ("steps 500 to 1,200", "k-NN 30.0% to 41.0%", "verdict degraded", "1.0 MB each"):
        assert part in told[1].detail
    assert told[0].detail == "generation 1, 2 learner ranks"


def test_the_same_again_is_counted_not_repeated():
    told = entries([event(i, "action", kind="skip", reason="NaN", step=i) for i in range(5)])
    assert [(entry.times, entry.step, entry.until) for entry in told] == [(5, 0, 4)]


def test_what_the_run_did_by_itself_is_marked_and_told_with_its_numbers():
    (entry,) = entries([event(1, "action", kind="rollback", step=900, reason="collapsed.",
                              to_step=500, lr_factor=0.25)])  # fmt: skip
    assert entry.action
    assert entry.detail == "collapsed; to step 500; rate x 0.25"
    assert set(ACTIONS) == set(ACTION_KINDS)


@pytest.mark.parametrize("value", [None, [], {"a": 1}, "NaN", float("nan"), True, -1])
def test_fields_of_any_kind_or_none_are_survived(value):
    fields = ("step", "ranks", "samples", "value", "lasted_s", "knn_accuracy", "size_bytes",
              "images", "kind", "reason", "name", "verdict")  # fmt: skip
    for name in [*get_args(EventName), "of a later version"]:
        for given in ({}, dict.fromkeys(fields, value)):
            (entry,) = entries([event(1, name, **given)])
            assert entry.title, name


def test_a_finding_lasts_until_it_is_cleared_or_until_the_end():
    events = [
        event(10, "finding_raised", name="starved", subject=""),
        event(20, "finding_cleared", name="starved", subject=""),
        event(25, "finding_cleared", name="never_raised"),
        event(30, "finding_raised", name="failure_budget", subject="a"),
        event(40, "finding_raised", name="failure_budget", subject="b"),
        event(50, "finding_cleared", name="failure_budget", subject="a"),
    ]
    assert finding_spans(events, 100.0) == {
        "starved": [(10, 20)], "failure_budget": [(30, 50), (40, 100)],
    }  # fmt: skip


def test_a_segment_ends_where_the_next_begins_and_at_a_gap():
    moments = [(0, "ok"), (1, "ok"), (2, "degraded"), (3, "degraded"), (500, "degraded")]
    found = [(s.start, s.end, s.value) for s in segments(moments)]
    assert found == [(0, 2, "ok"), (2, 3, "degraded"), (500, 500, "degraded")]
    assert segments([]) == []


def test_a_thinned_past_is_no_stop(tmp_path):
    history = History(tmp_path, most=64)
    for at in range(0, 40_000, 10):
        history.add({"at": float(at) + 3600 * (at > 39_000), "step": at})
    rows = list(read_history(tmp_path))
    assert rows[1]["at"] - rows[0]["at"] > 1000, "long ago is coarse"
    assert len(reporting_segments(rows)) == 2, "one stop, of an hour"
