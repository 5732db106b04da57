"""Displays: readable at 80 columns, without colour, with and without a learner."""

import dataclasses
import io
import json
import logging
import math

import pytest
from rich.console import Console
from status_example import FINDING, learner, status

from online_swav.console import (
    Logging,
    live_panel,
    plain_line,
    status_from_json,
    status_json,
    summary_lines,
)
from online_swav.learning.findings import Finding, Health
from streams.counts import SourceCounts


def render(snapshot):
    console = Console(file=io.StringIO(), width=80, color_system=None, force_terminal=False)
    console.print(live_panel(snapshot, 1000.0))
    return console.file.getvalue()


def test_the_live_view_shows_what_matters_in_80_columns():
    text = render(status())
    assert max(map(len, text.splitlines())) <= 80
    for part in ("step 1200", "312 images/s", "waiting 4%", "0.700", "0.300", "0.500", "cam",
                 "28 trained", "2 dropped", "lag 60 s", "step 1000, 20 s ago"):  # fmt: skip
        assert part in text, part


def test_findings_stand_in_words_with_their_remedy():
    unwell = learner(health=Health(verdict="degraded", findings=(FINDING,)))
    text = " ".join(render(status(learner=unwell)).replace("│", "").split())
    assert "degraded" in text
    assert "! stuck at log K: 0.99 (healthy: 0.37 to 0.9). Lower --learner.codes.epsilon" in text


def test_findings_of_the_run_stand_beside_those_of_the_learner_with_how_long():
    lagging = Finding(name="lagging", value=7200.0, healthy="under 3600 s", remedy="Read faster.",
                      since=100.0, since_step=800, subject="cam")  # fmt: skip
    snapshot = status(findings=(lagging,))
    text = " ".join(render(snapshot).replace("│", "").split())
    words = (
        "! lagging of cam: 7,200 (healthy: under 3600 s) for 15 min, since step 800. Read faster. "
        "(docs/health.md#lagging)"
    )
    assert "degraded" in text
    assert words in text
    assert "health=degraded finding=lagging:cam" in plain_line(snapshot, 1000.0)
    assert "lagging of cam" in "\n".join(summary_lines(snapshot, "/run"))
    early = status(findings=(lagging,), learner=None, learner_up=False)
    assert "Read faster" in render(early), "before the learner's first report too"


def test_values_in_words_are_shown_as_words():
    lagging = Finding(name="lagging", value=90_000.0, shown="25 h", healthy="less", remedy="Read.")
    snapshot = status(findings=(lagging,))
    for text in (render(snapshot), "\n".join(summary_lines(snapshot, "/run"))):
        assert "lagging: 25 h (healthy" in text
        assert "90,000" not in text


def test_no_number_is_parted_from_its_unit():
    for length in range(40, 80):
        lagging = Finding(name="lagging", value=1.0, shown="25 h", healthy="x" * length, remedy="",
                          subject="y" * 8)  # fmt: skip
        moved = dataclasses.replace(lagging, subject="y" * (length - 10))
        assert "25 h" in render(status(findings=(moved,)))


def test_advice_is_no_alarm_and_what_is_not_judged_is_said():
    advice = Finding(name="few_images_per_prototype", value=0.5, healthy="1", remedy="Raise it.",
                     advice=True)  # fmt: skip
    well = status(learner=learner(health=Health(verdict="ok", findings=(advice,))))
    assert "health  ok, with advice   usage" in render(well)
    assert "advice few images per prototype: 0.5" in render(well)
    assert "health=ok advice=few_images_per_prototype" in plain_line(well, 1000.0)
    assert "health: ok, with advice" in "\n".join(summary_lines(well, "/run"))
    early = status(learner=learner(health=Health()))
    assert "health  warming up: not judged yet" in render(early)
    assert "health: not judged yet" in "\n".join(summary_lines(early, "/run"))


def test_one_probe_alone_is_no_curve():
    alone = render(status(probes=status().probes[:1]))
    assert "k-NN  0.300  (step 0)" in alone
    assert "▁" not in alone


def test_what_the_run_did_by_itself_is_counted():
    helped = status(learner=learner(actions={"skip": 4, "rollback": 1, "rate": 0}))
    assert "4 skip 1 rollback (by itself" in " ".join(render(helped).split())
    assert "acted_skip=4 acted_rollback=1 " in plain_line(helped, 1000.0)
    assert "acted by itself: 4 skip, 1 rollback" in "\n".join(summary_lines(helped, "/run"))
    assert "by itself" not in render(status(learner=learner(actions={"skip": 0})))


def test_before_the_first_report_it_says_so():
    assert "starting" in render(status(learner=None, probes=(), sources={}, checkpoint=None))


def test_a_silent_learner_is_not_shown_as_training():
    silent = status(learner_up=False, learner=learner(reported_at=100.0))
    assert "DOWN: no report for 15 min" in render(silent)
    assert "learner=down silent_s=900" in plain_line(silent, 1000.0)
    ended = status(learner_up=False, state="stopped")
    assert "DOWN" not in render(ended)
    assert "down" not in plain_line(ended, 1000.0)


def test_a_paused_source_is_said_everywhere():
    books = SourceCounts(shards={"unread": 7}, paused="8 of its last 20 samples could not be used")
    snapshot = status(sources={"cam": books})
    panel = " ".join(render(snapshot).replace("│", "").split())
    assert "! source cam is paused: 8 of its last 20 samples could not be used. Look" in panel
    assert plain_line(snapshot, 1000.0).endswith("dropped=0 paused")
    assert "source cam is paused, 7 shards unread: 8 of its" in "\n".join(
        summary_lines(snapshot, "/run")
    )


def test_a_failed_run_says_why():
    assert "the learners crashed" in render(status(state="failed", message="the learners crashed"))


def test_names_with_brackets_are_no_markup():
    odd = status(run="run[/x]", sources={"cam[/y]": status().sources["cam"]},
                 state="failed", message="[/z]")  # fmt: skip
    text = render(odd)
    for name in ("run[/x]", "cam[/y]", "[/z]"):
        assert name in text


def test_a_line_for_logs():
    line = plain_line(status(), 1000.0)
    assert "step=1200 images_per_s=312" in line
    assert "knn=0.500@500" in line
    assert "source=cam" in line
    assert "\n" not in line


def test_json_survives_the_journey_even_with_nan():
    snapshot = status(learner=learner(loss=math.nan))
    text = status_json(snapshot)
    assert "NaN" not in json.dumps(json.loads(text)["learner"]["loss_ratio"])
    back = status_from_json(text)
    assert math.isnan(back.learner.loss)
    assert status_from_json(status_json(status())) == status()


def test_the_summary_tells_the_story():
    text = "\n".join(summary_lines(status(), "runs/x"))
    assert "hello" in text
    assert "0: 0.300  500: 0.500" in text
    assert "28 trained" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_processes_log_into_the_run(tmp_path, as_json):
    path = tmp_path / "run.log"
    before = {name: logging.getLogger(name).handlers for name in ("online_swav", "streams")}
    try:
        Logging(json=as_json, file=str(path)).set_up()
        logging.getLogger("streams.reader").info("shard_done shard=%s", "a")
        text = path.read_text()
    finally:
        for handler in logging.getLogger("streams").handlers:
            handler.close()
        for name, handlers in before.items():
            logging.getLogger(name).handlers = handlers
            logging.getLogger(name).propagate = True
    assert "shard_done shard=a" in (json.loads(text)["event"] if as_json else text)
