"""Every finding is explained under its own heading, where its link leads."""

from pathlib import Path

from online_swav.learning.findings import FINDING_NAMES
from online_swav.learning.signs import RULES
from online_swav.run_rules import RUN_RULES

DOCS = Path(__file__).parents[2] / "docs" / "health.md"


def test_headings_are_the_closed_set_of_findings():
    headings = [line[4:] for line in DOCS.read_text().splitlines() if line.startswith("### ")]
    assert headings == list(FINDING_NAMES)


def test_each_finding_has_one_rule():
    rules = [rule.name for rule in (*RULES, *RUN_RULES)]
    assert sorted(rules) == sorted(FINDING_NAMES)
