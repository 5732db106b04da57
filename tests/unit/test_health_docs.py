"""Whatever health tells people to change is an option of `online-swav train`."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

from online_swav.cli import main
from online_swav.config import RunConfig, to_dict
from online_swav.learning.signs import RULES
from online_swav.run_rules import RUN_RULES

ROOT = Path(__file__).parents[2]
HEALTH = (ROOT / "docs/health.md").read_text()
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*(?:\.[\w-]+)*")
FLAG_WITH_A_VALUE = re.compile(rf"{OPTION.pattern}[ =](?:True|False)\b")
CONFIG_NAME = re.compile(r"`([a-z_]+(?:\.[a-z0-9_]+)+)`")
FILE_SUFFIXES = (".md", ".py", ".json", ".jsonl", ".yaml")


def told():
    """Every text that names options, by where it stands."""
    yield "docs/health.md", HEALTH
    yield "docs/alerts.md", (ROOT / "docs/alerts.md").read_text()
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        yield f"alert {rule['alert']}", " ".join(rule["annotations"].values())
    for rule in (*RULES, *RUN_RULES):
        yield f"finding {rule.name}", f"{rule.healthy} {rule.remedy}"


TOLD = dict(told())


@pytest.fixture(scope="module")
def options():
    """Every option that the command has, as its help tells them."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code == 0
    return set(OPTION.findall(out.getvalue()))


def config_names(text):
    return [name for name in CONFIG_NAME.findall(text) if not name.endswith(FILE_SUFFIXES)]


def is_config_name(name):
    here = to_dict(RunConfig())
    for part in name.split("."):
        if not isinstance(here, dict) or part not in here:
            return False
        here = here[part]
    return True


@pytest.mark.parametrize(("where", "text"), TOLD.items(), ids=TOLD.keys())
def test_every_option_that_is_told_exists(where, text, options):
    assert set(OPTION.findall(text)) - options == set(), f"{where} names what is no option"
    assert FLAG_WITH_A_VALUE.findall(text) == [], f"{where}: say --no-... or the option alone"


def test_an_option_that_is_misspelled_is_found(options):
    text = "Lower `--learner.optim.lr`, or --crops.0.scale. --learner.codes.epsilon is a group."
    text += " Set --act.enabled False; `--learner.sync_batch_norm`, (--checkpoint.every-sec)."
    assert set(OPTION.findall(text)) - options == {
        "--learner.codes.epsilon", "--learner.sync_batch_norm", "--checkpoint.every-sec",
    }  # fmt: skip
    assert FLAG_WITH_A_VALUE.findall(text) == ["--act.enabled False"]


def test_every_name_of_the_config_that_the_guide_uses_exists():
    assert [name for name in config_names(HEALTH) if not is_config_name(name)] == []


def test_a_name_of_the_config_that_is_misspelled_is_found():
    names = config_names("`act.lr_factor`, `act.lr_facter`, `remedies.json`, `learner.health.x.y`")
    assert names == ["act.lr_factor", "act.lr_facter", "learner.health.x.y"]
    assert [is_config_name(name) for name in names] == [True, False, False]
