"""The rules are valid, fire when they should and not before, and name only what there is."""

import re
import subprocess

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from status_example import status

from online_swav.learning.findings import FINDING_NAMES
from online_swav.metrics import METRICS
from online_swav.metrics_collector import StatusCollector
from tests.deploy.tools import (
    ALERTS,
    PROMETHEUS,
    RECORDED,
    ROOT,
    families,
    mistakes,
    rules,
    selectors,
    tool,
)

TESTS = sorted((PROMETHEUS / "tests").glob("*_test.yml"))
CASES = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
TARGET = {"RunUnreachable", "NoRun"}  # about Prometheus' own series


def promtool(*arguments, **options):
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_promtool_finds_nothing_to_say_about_rules_and_configuration():
    files = PROMETHEUS / "alerts.yml", PROMETHEUS / "recording.yml"
    promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    promtool("check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "config/prometheus.yml")


def test_every_alert_fires_and_resolves_when_it_should():
    done = promtool("test", "rules", *TESTS)
    assert done.stdout.count("SUCCESS") == len(TESTS) == 5


def test_promtool_finds_nothing_to_say_about_the_page():
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    page = generate_latest(registry).decode()
    done = promtool("check", "metrics", input=page)
    assert done.stdout + done.stderr == ""


def seconds(duration):
    return promql_parser.parse_duration(duration).total_seconds()


def moments(alert):
    """By test, when the alert is expected to be silent and when to fire: [(seconds, fires)]."""
    for case in CASES:
        checks = [c for c in case.get("alert_rule_test", ()) if c["alertname"] == alert]
        if checks:
            yield [(seconds(c["eval_time"]), bool(c["exp_alerts"])) for c in checks]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_quiet_firing_and_resolved(alert):
    wait = seconds(ALERTS[alert]["for"]) if "for" in ALERTS[alert] else 0

    def complete(found):
        """Silent at first, silent in the second half of the wait, firing, and silent again."""
        fires = [fire for _, fire in found]
        if True not in fires or fires[0] or fires[-1]:
            return False
        first = fires.index(True)
        return not wait or found[first][0] - found[first - 1][0] <= max(wait / 2, 60)

    assert any(complete(found) for found in moments(alert)), (
        f"{alert}: deploy/prometheus/tests/ must have it quiet, not before its time, firing, "
        "resolved"
    )


@pytest.mark.parametrize("rule", [*rules("alerts.yml"), *rules("recording.yml")],
                         ids=lambda rule: rule.get("alert") or rule["record"])  # fmt: skip
def test_expressions_name_only_what_is_exported(rule):
    assert mistakes(rule["expr"]) == []


def test_a_name_that_nobody_exports_is_found():
    assert mistakes("rate(online_swav_typo[5m])") == ["online_swav_typo"]
    assert mistakes('online_swav_shards{sort="x"}') == ["online_swav_shards{sort}"]
    assert mistakes('online_swav_shards{state=~"done|lost"}') == ["online_swav_shards{state=lost}"]


def test_the_table_and_the_rules_name_each_other():
    named = {spec.alert for spec in METRICS if spec.alert}
    assert named == ALERTS.keys() - TARGET
    for name, rule in RECORDED.items():
        assert families(rule["expr"])
        assert any(name in alert["expr"] for alert in ALERTS.values())


def test_every_finding_raises_exactly_one_alert():
    heard = [
        (finding, name)
        for name, rule in ALERTS.items()
        for selector in selectors(rule["expr"])
        if selector.name == "online_swav_finding_active"
        for matcher in selector.matchers.matchers
        if matcher.name == "finding"
        for finding in matcher.value.split("|")
    ]
    by_verdict = ["embedding_collapse"]  # it makes the verdict collapsed, which Collapsed watches
    assert sorted([*(finding for finding, _ in heard), *by_verdict]) == sorted(FINDING_NAMES)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_what_and_where_to_read_on(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in notes["description"]
    place, _, anchor = notes["runbook_url"].partition("#")
    headings = {
        line.removeprefix("## ").lower()
        for line in (ROOT / place).read_text().splitlines()
        if line.startswith("## ")
    }
    assert place == "docs/alerts.md"
    assert anchor == alert.lower()
    assert anchor in headings


def test_the_document_has_a_section_for_each_alert_and_its_links_lead_somewhere():
    text = (ROOT / "docs/alerts.md").read_text()
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(ALERTS)
    explained = re.findall(r"^### (\w+)$", (ROOT / "docs/health.md").read_text(), re.MULTILINE)
    linked = re.findall(r"health\.md#(\w+)", text)
    assert linked
    assert set(linked) <= set(explained)
