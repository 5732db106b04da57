"""The pages of the metrics port: they read, they escape, they wait for nobody."""

import dataclasses
import http.client
import json
import socket

import pytest
from report_example import HOSTILE
from status_example import FINDING, learner, status

from online_swav.console import status_from_json
from online_swav.learning.findings import FINDING_NAMES, Finding, Health
from online_swav.metrics_server import healthy, serve_metrics
from online_swav.status_page import REFRESH_S, status_page
from online_swav.summary import headline
from streams.counts import SourceCounts

ADVICE = dataclasses.replace(FINDING, advice=True, name="few_images_per_prototype")
BUDGET = Finding(name="failure_budget", value=0.41, healthy="under 0.2", remedy="Look at them.",
                 subject="cam", since=900.0, since_step=1100)  # fmt: skip
UNWELL = status(
    learner=learner(health=Health(verdict="degraded", findings=(FINDING,))), findings=(BUDGET,)
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server, what it shows, and where its report would be."""
    current = [UNWELL]
    report = tmp_path_factory.mktemp("run") / "report.html"
    server = serve_metrics(lambda: current[0], host="127.0.0.1", port=0, report=report)
    yield server.port, current, report
    server.close()


def ask(port, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_the_page_says_what_is_wrong_how_long_and_what_to_do():
    page = status_page(UNWELL, 1020.0, report=True, guide=True)
    for part in ("Degraded", "2 findings", "stuck at log K", "0.99", "0.37 to 0.9",
                 "failure budget of cam", "2 min", "since step 1,100", "Look at them.",
                 'href="/docs/health.md#failure_budget:~:text=%23%23%23%20failure_budget"',
                 'href="/report"', 'href="/metrics"',
                 'href="/healthz"', "1,200", "312", "50.0%", "28 trained", "40 s ago",
                 f'content="{REFRESH_S}"'):  # fmt: skip
        assert part in page.replace("\u00a0", " "), part
    assert "2\u00a0min" in page, "no number is parted from its unit"


def test_the_value_of_a_finding_is_shown_in_words():
    lagging = dataclasses.replace(BUDGET, value=90_000.0, shown="25 h")
    page = status_page(status(findings=(lagging,)), 1020.0, report=True, guide=True)
    assert "<b>25\u00a0h</b>" in page
    assert "90,000" not in page


def test_links_that_lead_nowhere_are_not_made():
    page = status_page(UNWELL, 1020.0, report=False, guide=False)
    assert 'href="/docs' not in page
    assert "docs/health.md#failure_budget" in page
    assert 'href="/report"' not in page
    assert "online-swav report" in page


def test_everything_is_escaped():
    hostile = status(
        run=HOSTILE, state="failed", message=HOSTILE,
        sources={HOSTILE: SourceCounts(paused=HOSTILE, shards={HOSTILE: 1})},
        findings=(dataclasses.replace(BUDGET, subject=HOSTILE, remedy=HOSTILE, healthy=HOSTILE),),
    )  # fmt: skip
    assert "<script" not in status_page(hostile, 1000.0, report=False, guide=True)


@pytest.mark.parametrize(
    ("snapshot", "tone", "title"),
    [
        (status(), "ok", "Healthy"),
        (UNWELL, "warn", "Degraded"),
        (
            status(learner=learner(health=Health(verdict="ok", findings=(ADVICE,)))),
            "ok",
            "Healthy, with advice",
        ),
        (status(learner=learner(health=Health(verdict="unknown"))), "quiet", "Warming up"),
        (status(learner=learner(health=Health()), state="stopped"), "quiet", "Not judged"),
        (status(learner=None, learner_up=False, state="starting"), "quiet", "Starting"),
        (status(learner_up=False), "bad", "Silent"),
        (status(learner_up=False, state="stopped"), "ok", "Healthy"),
        (status(state="failed"), "bad", "Failed"),
        (status(learner=learner(health=Health(verdict="collapsed"))), "bad", "Collapsed"),
        (status(sources={"cam": SourceCounts(paused="rubbish")}), "bad", "Paused"),
    ],
)
def test_what_is_said_first(snapshot, tone, title):
    found = headline(snapshot, 1000.0)
    assert (found.tone, found.title) == (tone, title)
    assert found.sentence
    if tone == "bad":
        assert healthy(snapshot)[0] is False, "page and /healthz agree"


def test_a_stopped_run_does_not_go_on():
    stopped = dataclasses.replace(UNWELL, state="stopped", learner_up=False)
    assert headline(stopped, 1000.0).sentence == "2 findings."


def test_advice_is_counted_apart_and_said_to_be_advice():
    both = status(learner=learner(health=Health(verdict="degraded", findings=(FINDING, ADVICE))))
    assert headline(both, 1.0).sentence == "1 finding and 1 piece of advice; training goes on."
    well = status(learner=learner(health=Health(verdict="ok", findings=(ADVICE,))))
    assert headline(well, 1.0).sentence == "1 piece of advice; the encoder itself is well."
    assert "few images per prototype</a> <small>advice</small>" in status_page(
        well, 1.0, report=False, guide=True
    )
    early = status(learner=learner(health=Health(findings=(ADVICE,))))
    sentence = headline(early, 1.0).sentence
    assert sentence.startswith("Not judged yet: ")
    assert sentence.endswith("There is 1 piece of advice.")


def test_the_pages_are_served_with_policies_that_allow_nothing(served):
    port, _, report = served
    code, headers, page = ask(port, "/")
    assert code == 200
    assert "Degraded" in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe-inline" not in headers["Content-Security-Policy"]
    code, _, text = ask(port, "/report")
    assert (code, "online-swav report --run DIR" in text) == (404, True)
    report.write_text("<p>story</p>")
    code, headers, text = ask(port, "/report")
    assert (code, text) == (200, "<p>story</p>")
    assert headers["Content-Type"].startswith("text/html")
    for path in ("/", "/report", "/status.json", "/healthz", "/metrics", "/else"):
        assert ask(port, path)[1]["X-Content-Type-Options"] == "nosniff", path


def test_the_snapshot_is_served_whole(served):
    port, current, _ = served
    code, _, text = ask(port, "/status.json")
    assert code == 200
    assert status_from_json(text) == current[0]


def test_every_finding_of_the_run_is_explained_in_the_guide(served):
    code, headers, text = ask(served[0], "/docs/health.md")
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert [name for name in FINDING_NAMES if f"### {name}\n" not in text] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(served, method):
    for path in ("/", "/metrics", "/report"):
        code, headers, _ = ask(served[0], path, method)
        assert (code, headers["Allow"]) == (405, "GET, HEAD")


def test_head_gives_the_header_alone(served):
    for path in ("/", "/metrics", "/healthz"):
        code, headers, text = ask(served[0], path, "HEAD")
        assert (code, text) == (200, "")
        assert headers["Content-Type"] == ask(served[0], path)[1]["Content-Type"]
        assert headers.get("Content-Length") != "0"


def test_a_client_that_says_nothing_holds_nobody_up(served):
    with socket.create_connection(("127.0.0.1", served[0]), timeout=5):
        # `ask` gives up after five seconds, the server on the silent one after twenty.
        assert json.loads(ask(served[0], "/healthz")[2])["ok"]
