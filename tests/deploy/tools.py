"""Programs of Debian, the rules, and what a PromQL expression names: for the tests beside it."""

import os
import shutil
from pathlib import Path

import promql_parser
import pytest
import yaml

from online_swav.metrics import METRICS, PREFIX

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"


def tool(name):
    """Path of a program of Debian's package prometheus; without it the test is skipped.

    Where ONLINE_SWAV_REQUIRE_TOOLS is set, as `.ci/run` does after installing, it fails instead.
    """
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is missing: apt-get install prometheus"
        if os.environ.get("ONLINE_SWAV_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def rules(file):
    """All rules of a file in deploy/prometheus."""
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDED = {rule["record"]: rule for rule in rules("recording.yml")}
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
SERIES = {
    f"{PREFIX}{spec.name}{suffix}": spec
    for spec in METRICS
    for suffix in _SUFFIXES.get(spec.kind, ("",))
}
"""Families by every name that a query may use."""


def selectors(expression):
    """Every series selector of an expression."""
    found = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return [node for node in found if isinstance(node, promql_parser.VectorSelector)]


def families(expression):
    """Families of the metric table that an expression reads; recorded ones count by their parts."""
    found = set()
    for selector in selectors(expression):
        if selector.name in RECORDED:
            found |= families(RECORDED[selector.name]["expr"])
        elif selector.name in SERIES:
            found.add(SERIES[selector.name].name)
    return found


def mistakes(expression, variables=()):
    """What an expression names that nobody exports: series, labels, values of closed sets.

    Args:
        expression: PromQL.
        variables: Values that a dashboard fills in later.
    """
    wrong = []
    for selector in selectors(expression):
        spec = SERIES.get(selector.name)
        if spec is None and selector.name not in {*RECORDED, "up"}:
            wrong.append(selector.name)
        closed = {} if spec is None else spec.labels
        for matcher in selector.matchers.matchers:
            if matcher.name not in {"instance", "job", "run", *closed}:
                wrong.append(f"{selector.name}{{{matcher.name}}}")
            if closed.get(matcher.name) and matcher.value not in variables:
                unknown = set(matcher.value.split("|")) - set(closed[matcher.name])
                wrong += [f"{selector.name}{{{matcher.name}={value}}}" for value in unknown]
    return wrong
