"""A real Prometheus on loopback: what it scrapes, what the dashboard asks, which alerts fire."""

import contextlib
import dataclasses
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml
from status_example import FINDING, learner, status

from online_swav.learning.findings import Health
from online_swav.metrics_server import serve_metrics
from streams.testing import write_test_shards
from tests.deploy.tools import GRAFANA, PROMETHEUS, families, tool
from tests.integration.conftest import free_port

DASHBOARD = json.loads((GRAFANA / "online-swav.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


class Prometheus:
    """A server that scrapes one port three times a second, with our rules in a hurry."""

    def __init__(self, folder, target):
        self.port = free_port()
        rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule |= {"for": "300ms"} if "for" in rule else {}
        (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
        config = yaml.safe_load((PROMETHEUS / "config/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "300ms", "evaluation_interval": "300ms"}
        config["rule_files"] = [str(PROMETHEUS / "recording.yml"), "alerts.yml"]
        (job,) = config["scrape_configs"]
        job |= {
            "scrape_interval": "300ms",
            "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._log = (folder / "log.txt").open("wb")
        self.process = subprocess.Popen(
            [tool("prometheus"), "--config.file", str(folder / "prometheus.yml"),
             "--storage.tsdb.path", str(folder / "data"), "--log.level", "warn",
             "--web.listen-address", f"127.0.0.1:{self.port}"],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(self, path, **parameters):
        """The data of an answer of the HTTP API.

        Raises:
            urllib.error.HTTPError: If Prometheus finds fault with the question.
        """
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.load(answer)
        assert body["status"] == "success"
        return body["data"]

    def values(self, expression):
        """By labels, the values of an instant query."""
        return {tuple(sorted(series["metric"].items())): float(series["value"][1])
                for series in self.ask("query", query=expression)["result"]}  # fmt: skip

    def firing(self):
        """Names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {a["labels"]["alertname"]: a for a in alerts if a["state"] == "firing"}

    def wait_until(self, condition, *, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError):  # not up yet
                if condition():
                    return
            time.sleep(0.2)
        assert condition()

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self._log.close()


@pytest.fixture
def prometheus(tmp_path):
    servers = []

    def start(target):
        folder = tmp_path / "prometheus"
        folder.mkdir()
        servers.append(Prometheus(folder, target))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def dashboard(server, run):
    """Queries of panels that show nothing; fails if Prometheus does not understand one."""
    empty = []
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$run", run)
            if not server.ask("query", query=query)["result"]:
                empty.append(target["expr"])
    for note in DASHBOARD["annotations"]["list"]:
        server.ask("query", query=note["expr"].replace("$run", run))
    return empty


def test_a_dashboard_is_filled_alerts_fire_and_a_gone_run_goes_stale(prometheus):
    unwell = learner(health=Health(verdict="degraded", findings=(FINDING,)))
    current = [status(learner=unwell, started_at=time.time())]
    served = serve_metrics(lambda: current[0], host="127.0.0.1", port=0)
    try:
        server = prometheus(served.port)
        target = f"127.0.0.1:{served.port}"
        server.wait_until(lambda: server.values("up") and "StuckAtLogK" in server.firing())
        (labels,) = server.values('online_swav_loss_ratio{run="demo"}')
        assert ("instance", target) in labels
        stuck = server.firing()["StuckAtLogK"]
        assert float(stuck["value"]) == pytest.approx(0.7)
        assert stuck["annotations"]["description"].startswith("Loss / log K is 0.7;")
        assert not {"LearnerDown", "RunUnreachable", "Collapsed"} & server.firing().keys()
        assert dashboard(server, "demo") == []
        assert server.ask("label/run/values") == ["demo"]

        # The learner goes: its gauges go stale at once, its counters stay.
        current[0] = dataclasses.replace(current[0], learner_up=False)
        server.wait_until(lambda: "LearnerDown" in server.firing())
        assert server.firing()["LearnerDown"]["annotations"]["summary"] == (
            "demo: the learner is down"
        )
        assert server.values("online_swav_loss_ratio") == {}
        assert len(server.values("online_swav_step_duration_seconds_count")) == 1
        assert "StuckAtLogK" not in server.firing()

        # It has collapsed, the run gives up, and its process ends.
        collapsed = learner(health=Health(verdict="collapsed", findings=(FINDING,)))
        current[0] = status(learner=collapsed, learner_up=False, state="failed")
        server.wait_until(lambda: {"Collapsed", "RunFailed"} <= server.firing().keys())
    finally:
        served.close()
    server.wait_until(lambda: "RunUnreachable" in server.firing())
    assert server.values("online_swav_run_state") == {}, "nothing of a gone run is shown as now"
    assert {"Collapsed", "RunFailed"} <= server.firing().keys(), "what was last heard holds"


RARE = {
    "finding_active",  # it may be well
    "last_probe_timestamp_seconds", "probe_accuracy_ratio",  # no labels
    "loss_ratio_best",  # after some hundred steps
    "oldest_unread_shard_timestamp_seconds",  # all may have been read
}  # fmt: skip
"""Families that a short run need not fill."""


@pytest.mark.ray
@pytest.mark.chaos  # in the default run: the same server on a snapshot, above
def test_a_real_run_is_scraped_until_it_is_killed(run, prometheus):
    write_test_shards(run.source, shards=4, samples_per_shard=200, seed=0)
    server = prometheus(run.port)
    run.start("--learner.health.inspect-every-steps", "5", "--learner.queue.length", "32")
    run.wait_until(lambda: run.step() >= 30)
    server.wait_until(lambda: server.values("online_swav_step_duration_seconds_count"))
    server.wait_until(lambda: server.values("rate(online_swav_step_duration_seconds_count[1m])"))
    (steps,) = server.values("online_swav_step").values()
    assert steps >= 10
    assert not {"RunUnreachable", "LearnerDown", "RunFailed"} & server.firing().keys()
    unseen = {family for query in dashboard(server, "run") for family in families(query)}
    assert unseen <= RARE
    run.kill_tree()
    server.wait_until(lambda: "RunUnreachable" in server.firing())
    assert server.values('online_swav_learner_up{run="run"}') == {}
