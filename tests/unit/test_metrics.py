"""What Prometheus reads: names, units, closed labels, and nothing that lies."""

import dataclasses
import json
import math
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from status_example import FINDING, learner, status

from online_swav.errors import MetricsPortError
from online_swav.learning.findings import FINDING_NAMES, VERDICTS, Health
from online_swav.metrics import METRICS, PREFIX
from online_swav.metrics_server import StatusCollector, healthy, serve_metrics
from streams.counts import SHARD_STATES, SourceCounts
from streams.shard import DROP_REASONS


def scrape(snapshot):
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: snapshot))
    text = generate_latest(registry).decode()
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_follow_the_conventions():
    names = [spec.name for spec in METRICS]
    assert len(set(names)) == len(names)
    for spec in METRICS:
        assert spec.name == spec.name.lower()
        assert spec.help.endswith(".")
        for unit in ("_ms", "_kb", "_mb", "_percent", "_s"):
            assert not spec.name.endswith(unit), spec.name
        assert not spec.name.endswith("_total"), "the client adds it to counters"


def test_values_come_from_the_snapshot():
    found = scrape(status())
    assert found["loss_ratio",] == 0.7
    assert found["shards", "cam", "done"] == 3
    assert found["images_trained", "cam"] == 28
    assert found["probe_accuracy_ratio", "knn"] == 0.5
    assert found["health_state", "ok"] == 1
    assert found["source_errors_total", "cam"] == 1


def test_every_value_of_a_closed_label_set_is_there_from_the_start():
    found = scrape(status(learner=None, learner_up=False))
    assert {("health_state", verdict) for verdict in VERDICTS} <= found.keys()
    assert {("finding_active", name) for name in FINDING_NAMES} <= found.keys()
    assert {("shards", "cam", state) for state in SHARD_STATES} <= found.keys()
    assert {("images_dropped", reason, "cam") for reason in DROP_REASONS} <= found.keys()
    assert found["checkpoints_total", "failed"] == 0
    assert scrape(status(source_errors={}))["source_errors_total", "cam"] == 0


def test_a_dead_learner_is_said_to_be_down_and_its_numbers_are_withheld():
    found = scrape(status(learner_up=False))
    assert found["learner_up",] == 0
    assert ("loss_ratio",) not in found
    assert found["health_state", "unknown"] == 1


def test_nan_is_shown_as_nan():
    found = scrape(status(learner=learner(loss_ratio=math.nan)))
    assert math.isnan(found["loss_ratio",])


def test_a_run_folder_that_is_no_utf8_does_not_break_the_page():
    assert scrape(status(run="a\udcff"))["run_info", "abc", "a?"] == 1


PAUSED = status(sources={"cam": SourceCounts(bad_ratio=0.4, paused="8 of its last 20 samples"),
                         "ok": SourceCounts()})  # fmt: skip


def test_a_paused_source_is_said_to_be_paused():
    found = scrape(PAUSED)
    assert (found["source_paused", "cam"], found["source_paused", "ok"]) == (1, 0)
    assert found["source_bad_ratio", "cam"] == 0.4
    assert healthy(PAUSED) == (False, ["source cam is paused: 8 of its last 20 samples"])


COLLAPSED = learner(
    health=Health(verdict="collapsed", findings=(dataclasses.replace(FINDING, collapse=True),))
)


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (status(), True),
        (status(learner=None, learner_up=False, state="starting"), True),
        (status(learner=learner(health=Health(verdict="degraded", findings=(FINDING,)))), True),
        (status(learner=COLLAPSED), False),
        (status(learner=learner(health=Health(verdict="collapsed"))), False),
        (status(state="failed"), False),
        (status(learner_up=False), False),
        (status(learner_up=False, state="stopped"), True),
    ],
)
def test_health_says_no_only_when_a_person_is_needed(snapshot, expected):
    ok, reasons = healthy(snapshot)
    assert ok is expected
    assert bool(reasons) is not expected


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_server_answers_its_pages_and_no_other():
    current = [status()]
    server = serve_metrics(lambda: current[0], host="127.0.0.1", port=0)
    try:
        assert "online_swav_loss_ratio 0.7" in get(server.port, "/metrics")[1]
        assert get(server.port, "/healthz") == (
            200, '{"ok": true, "state": "training", "reasons": []}\n'
        )  # fmt: skip
        current[0] = status(state="failed", message="no disk")
        code, body = get(server.port, "/healthz")
        assert code == 503
        assert "no disk" in json.loads(body)["reasons"][0]
        assert "/metrics" in get(server.port, "/")[1]
        assert get(server.port, "/else")[0] == 404
    finally:
        server.close()


def test_a_taken_port_is_named_with_a_way_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            MetricsPortError, match=rf"127.0.0.1:{port} .*Another run .*--metrics.port"
        ):
            serve_metrics(status, host="127.0.0.1", port=port)


def test_an_address_of_another_machine_is_not_called_a_taken_port():
    with pytest.raises(MetricsPortError, match=r"--metrics\.host must be") as caught:
        serve_metrics(status, host="192.0.2.1", port=0)  # TEST-NET-1: on no machine
    assert "Another run" not in str(caught.value)
