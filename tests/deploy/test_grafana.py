"""The dashboard asks only for what is exported, and shows all of it."""

import json
import re

import pytest
import yaml

from online_swav.metrics import METRICS
from tests.deploy.tools import GRAFANA, families, mistakes

DASHBOARD = json.loads((GRAFANA / "online-swav.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RUN = "$run"


def query(expression):
    """As Grafana sends it, but for the name of the run."""
    return expression.replace("$__rate_interval", "1m")


QUERIES = [query(target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES += [query(note["expr"]) for note in DASHBOARD["annotations"]["list"]]


def test_it_is_a_dashboard_that_can_be_provisioned():
    assert DASHBOARD["uid"] == "online-swav"
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "Grafana gives it"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert [v["name"] for v in DASHBOARD["templating"]["list"]] == ["datasource", "run"]
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Is it learning?", "Is it healthy?", "Is it fed?", "Is it safe?"]


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"])
                 for j in range(place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_says_what_it_shows_and_in_which_unit(panel):
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("expression", QUERIES)
def test_queries_ask_for_what_is_exported_of_the_chosen_run(expression):
    assert mistakes(expression, variables={RUN}) == []
    assert expression.count(f'run="{RUN}"') == len(re.findall(r"online_swav_\w+{", expression)) > 0


def test_every_family_is_on_a_panel():
    shown = set().union(*(families(expression) for expression in QUERIES))
    assert {spec.name for spec in METRICS} == shown


def test_the_variable_lists_the_runs():
    run = DASHBOARD["templating"]["list"][1]
    assert run["query"]["query"] == "label_values(online_swav_learner_up, run)"


def test_provisioning_names_the_same_kind_of_data_source():
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]  # fmt: skip
    assert source["type"] == DASHBOARD["templating"]["list"][0]["query"] == "prometheus"
    assert source["url"].startswith("http://127.0.0.1:")
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning/dashboards/online-swav.yml").read_text()
    )["providers"]  # fmt: skip
    assert provider["type"] == "file"
    assert provider["options"]["path"]
    assert provider["allowUiUpdates"] is False
