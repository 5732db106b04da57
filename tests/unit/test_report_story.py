"""The story: what happened in sentences, routine folded, whatever the lines of the file hold."""

from typing import get_args

import pytest

from online_swav.events import ACTION_KINDS, EventName
from online_swav.history import History, read_history
from online_swav.report.events import Event
from online_swav.report.lapses import with_lapses
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


RAISED = {"name": "stuck_at_log_k", "subject": "", "value": 1.0}
AROUND = {"name": "starved", "subject": "", "value": 1.0}


@pytest.mark.parametrize(
    ("between", "learners_end", "runs_end"),
    [
        ([], 50, 50),
        ([event(30, "stopped", reason="asked to")], 30, 30),
        ([event(30, "failed", reason="given up")], 30, 30),
        ([event(30, "restarted", component="learner")], 50, 100),
        ([event(30, "restarted", component="ingest")], 50, 50),
        ([event(30, "action", kind="rollback")], 50, 100),
        ([event(30, "action", kind="skip")], 50, 50),
    ],
)
def test_open_findings_end_with_who_saw_them(between, learners_end, runs_end):
    events = with_lapses([
        event(0, "started"), event(10, "finding_raised", **RAISED),
        event(20, "finding_raised", **AROUND), *between, event(50, "resumed", samples=1),
    ])  # fmt: skip
    assert finding_spans(events, 100.0) == {
        "stuck_at_log_k": [(10, learners_end)], "starved": [(20, runs_end)],
    }  # fmt: skip
    told = {entry.title: entry.detail for entry in entries(events)}
    assert "when the learner ended" in told["Left open: stuck at log K"]
    assert ("Left open: starved" in told) == (runs_end != 100)


def test_a_finding_that_is_raised_again_is_a_stretch_of_its_own():
    events = with_lapses([
        event(0, "started"), event(10, "finding_raised", **RAISED), event(20, "stopped"),
        event(50, "resumed"), event(60, "finding_raised", **RAISED), event(70, "stopped"),
    ])  # fmt: skip
    assert finding_spans(events, 70.0) == {"stuck_at_log_k": [(10, 20), (60, 70)]}
    assert [e.name for e in events].count("finding_lapsed") == 1, "the newest is still open"


def test_values_are_told_in_words_and_advice_as_advice():
    found, advice = entries([
        event(1, "finding_raised", **AROUND, shown="25 h", healthy="less", remedy="Read."),
        event(2, "finding_raised", **RAISED, shown="", healthy="less", remedy="", advice=True),
    ])  # fmt: skip
    assert (found.tone, found.title, found.detail) == (
        "warn", "Finding: starved", "25 h, healthy: less. Read",
    )  # fmt: skip
    assert (advice.tone, advice.title) == ("quiet", "Advice: stuck at log K")
    assert advice.detail.startswith("1, healthy: less")


def test_verdicts_and_changed_options_are_told_in_words():
    verdict, changed = entries([
        event(1, "verdict", before="unknown", after="ok"),
        event(2, "changed", options=["learner.optim.lr: 0.1 -> 0.2", "crops.0.num: 2 -> 4"]),
    ])  # fmt: skip
    assert (verdict.title, verdict.detail) == ("Verdict: ok", "before: not judged yet")
    assert changed.title == "Options changed by the user"
    assert changed.detail == "learner.optim.lr: 0.1 -> 0.2; crops.0.num: 2 -> 4"


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
