"""What Prometheus reads: names, units, closed labels, and nothing that lies."""

import dataclasses
import json
import math
import socket
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_page
from prometheus_client.parser import text_string_to_metric_families
from status_example import FINDING, SIGNS, learner, status

from online_swav.errors import MetricsPortError
from online_swav.events import ACTION_KINDS
from online_swav.learning.findings import FINDING_NAMES, VERDICTS, Health
from online_swav.metrics import METRICS, PREFIX
from online_swav.metrics_collector import StatusCollector
from online_swav.metrics_server import healthy, serve_metrics
from online_swav.metrics_table import table
from online_swav.status import HISTOGRAMS
from streams.counts import SHARD_STATES, SourceCounts
from streams.shard import DROP_REASONS

ROOT = Path(__file__).parents[2]
GAUGES = [spec for spec in METRICS if spec.kind == "gauge"]


def page(snapshot):
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: snapshot))
    return generate_latest(registry).decode()


def scrape(snapshot):
    """Values by name and labels, without prefix and the run's label."""
    return {
        (sample.name.removeprefix(PREFIX),
         *(value for label, value in sample.labels.items() if label != "run")): sample.value
        for family in text_string_to_metric_families(page(snapshot))
        for sample in family.samples
    }  # fmt: skip


def lines(snapshot):
    """The page but for what is measured while it is made."""
    return [line for line in page(snapshot).splitlines() if "exporter_collect" not in line]


def names(found):
    return {key[0] for key in found}


def test_names_and_units_follow_the_conventions():
    assert len({spec.name for spec in METRICS}) == len(METRICS)
    for spec in METRICS:
        assert spec.name == spec.name.lower()
        assert spec.meaning.endswith(".")
        assert spec.name.endswith("_total") is (spec.kind == "counter"), spec.name
        assert spec.name.endswith("_info") is (spec.kind == "info"), spec.name
        assert ("_seconds" in spec.name) is (spec.unit in ("seconds", "unix seconds")), spec.name
        assert ("_timestamp_" in spec.name) is (spec.unit == "unix seconds"), spec.name
        assert ("_bytes" in spec.name) is (spec.unit == "bytes"), spec.name
        assert ("_ratio" in spec.name) is (spec.unit == "ratio"), spec.name
    assert {s.name for s in METRICS if s.kind == "histogram"} == HISTOGRAMS.keys()


def test_the_page_has_every_family_and_every_sample_names_its_run():
    families = {f.name: f for f in text_string_to_metric_families(page(status()))}
    for spec in METRICS:
        name = spec.name.removesuffix("_total") if spec.kind == "counter" else spec.name
        samples = families.pop(PREFIX + name).samples
        assert samples, f"{spec.name}: the example status must fill it"
        for sample in samples:
            assert sample.labels.keys() - {"le"} == {"run", *spec.labels}
            assert sample.labels["run"] == "demo"
        for label, closed in spec.labels.items():
            found = [sample.labels[label] for sample in samples]
            assert not closed or set(found) == set(closed), "each of a closed set, and no other"
    assert families == {}


def test_the_page_is_also_valid_openmetrics():
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    families = openmetrics.text_string_to_metric_families(openmetrics_page(registry).decode())
    kinds = {family.name: family.type for family in families}
    assert kinds[PREFIX + "build"] == "info"
    assert kinds[PREFIX + "step_duration_seconds"] == "histogram"


def test_values_come_from_the_snapshot():
    found = scrape(status())
    assert found["loss_ratio",] == 0.7
    assert found["effective_rank",] == 40
    assert found["queue_age_steps", "max"] == 60
    assert found["shards", "cam", "done"] == 3
    assert found["images_trained", "cam"] == 28
    assert found["probe_accuracy_ratio", "knn"] == 0.5
    assert found["health_state", "ok"] == 1
    assert found["source_errors_total", "cam"] == 1
    assert found["actions_total", "skip"] == 1
    assert found["phase_seconds_total", "wait"] == 3
    assert 0 < found["exporter_collect_duration_seconds",] < 10


def test_the_versions_are_those_installed():
    (line,) = [x for x in page(status()).splitlines() if x.startswith("online_swav_build_info{")]
    for package, label in (("torch", "torch"), ("ray", "ray"), ("online-swav", "version")):
        assert f'{label}="{version(package)}"' in line


def test_histograms_are_cumulative():
    found = scrape(status())
    bounds = HISTOGRAMS["batch_wait_seconds"]
    counts = [found["batch_wait_seconds_bucket", f"{bound:g}"] for bound in bounds]
    assert counts == [1, 1, 1, *[2] * (len(bounds) - 4), 2]
    assert found["batch_wait_seconds_bucket", "+Inf"] == 3
    assert found["batch_wait_seconds_count",] == 3
    assert found["batch_wait_seconds_sum",] == pytest.approx(bounds[0] + bounds[3] + 2 * bounds[-1])


NOT_EXPORTED = {
    "learner.step_s": "the mean of step_duration_seconds",
    "learner.embedding_std_ratio": "the window's is: the verdict rests on it",
    "signs.loss_ratio": "smoothed; the step's is, Prometheus smooths by itself",
    "signs.code_entropy_ratio": "likewise",
    "signs.view_agreement_ratio": "likewise",
    "source.budget_samples": "the weight of source_bad_ratio: under it nothing is judged",
}
PARTS = {
    "learner": (lambda part: status(learner=part), learner()),
    "signs": (lambda part: status(learner=learner(signs=part)), SIGNS),
    "source": (lambda part: status(sources={"cam": part}), status().sources["cam"]),
    "checkpoint": (lambda part: status(checkpoint=part), status().checkpoint),
    "run": (lambda part: part, status()),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_number_of_the_contract_is_on_the_page(part):
    make, value = PARTS[part]
    hidden = []
    for field in dataclasses.fields(value):
        number = getattr(value, field.name)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        changed = dataclasses.replace(value, **{field.name: 2 * number + 1})
        if lines(make(changed)) == lines(make(value)):
            hidden.append(f"{part}.{field.name}")
    assert hidden == [name for name in NOT_EXPORTED if name.startswith(f"{part}.")]


def test_every_value_of_a_closed_label_set_is_there_from_the_start():
    found = scrape(status(learner=None, learner_up=False))
    assert {("health_state", verdict) for verdict in VERDICTS} <= found.keys()
    assert {("finding_active", name) for name in FINDING_NAMES} <= found.keys()
    assert {("shards", "cam", state) for state in SHARD_STATES} <= found.keys()
    assert {("images_dropped", reason, "cam") for reason in DROP_REASONS} <= found.keys()
    assert found["checkpoints_total", "failed"] == 0
    assert scrape(status(source_errors={}))["source_errors_total", "cam"] == 0


def test_what_the_run_did_in_all_its_processes_is_absent_before_it_is_known():
    assert "actions_total" not in names(scrape(status(learner=None, learner_up=False)))
    found = scrape(status(learner=learner(actions={})))
    assert [found["actions_total", kind] for kind in ACTION_KINDS] == [0] * len(ACTION_KINDS)


def test_a_dead_learner_is_said_to_be_down_and_its_gauges_are_withheld():
    alive, dead = scrape(status()), scrape(status(learner_up=False))
    assert dead["learner_up",] == 0
    assert dead["health_state", "unknown"] == 1
    withheld = names(alive) - names(dead)
    assert {"loss_ratio", "effective_rank", "learning_rate", "data_age_seconds"} <= withheld
    assert withheld <= {spec.name for spec in GAUGES}
    for kept in (("actions_total", "skip"), ("step_duration_seconds_count",),
                 ("phase_seconds_total", "step"), ("refused_images_total",)):  # fmt: skip
        assert dead[kept] == alive[kept], "counters and histograms keep their last values"


def test_a_dead_learner_takes_its_findings_along_but_not_those_of_the_run():
    unwell = learner(health=Health(verdict="degraded", findings=(FINDING,)))
    disk = dataclasses.replace(FINDING, name="disk_filling")
    found = scrape(status(learner=unwell, learner_up=False, findings=(disk,)))
    assert found["finding_active", "disk_filling"] == 1
    assert found["finding_active", "stuck_at_log_k"] == 0
    assert found["health_state", "degraded"] == 1


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_the_last_verdict_of_a_run_that_ended_stands(state):
    found = scrape(status(learner=COLLAPSED, learner_up=False, state=state))
    assert found["health_state", "collapsed"] == 1
    assert found["finding_active", "stuck_at_log_k"] == 1


def test_the_document_is_made_of_the_table():
    assert (ROOT / "docs/metrics.md").read_text() == table(), (
        "run: python -m online_swav.metrics_table > docs/metrics.md"
    )


def test_nan_is_shown_as_nan():
    found = scrape(status(learner=learner(loss_ratio=math.nan)))
    assert math.isnan(found["loss_ratio",])


def test_a_run_folder_that_is_no_utf8_does_not_break_the_page():
    assert 'online_swav_run_info{config_digest="abc",run="a?"} 1' in page(status(run="a\udcff"))


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
        assert 'online_swav_loss_ratio{run="demo"} 0.7' in get(server.port, "/metrics")[1]
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
            MetricsPortError, match=rf"port {port} on 127.0.0.1 is in use .* --metrics.port"
        ):
            serve_metrics(status, host="127.0.0.1", port=port)


def test_an_address_of_another_machine_is_not_called_a_taken_port():
    with pytest.raises(MetricsPortError, match=r"no IPv4 address .* --metrics.host") as caught:
        serve_metrics(status, host="192.0.2.1", port=0)  # TEST-NET-1: on no machine
    assert "another run" not in str(caught.value)
