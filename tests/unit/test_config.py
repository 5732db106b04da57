"""Options: merging, mistakes named by their path, differences that matter."""

import dataclasses

import pytest

from online_swav.config import RunConfig, differences, digest, load_yaml, to_yaml
from online_swav.errors import ConfigError
from online_swav.learning.config import HealthConfig
from online_swav.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_yaml(name, tmp_path):
    config = preset(name)
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config))
    assert load_yaml(path, RunConfig()) == config


def load(tmp_path, text, base=None):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_yaml(path, base or RunConfig())


def test_yaml_lies_on_top_of_the_preset(tmp_path):
    config = load(tmp_path, "learner: {codes: {iterations: 5}}\nseed: 7", preset("demo"))
    assert config.learner.codes.iterations == 5
    assert config.seed == 7
    assert config.learner.model == preset("demo").learner.model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learner: {codes: {epsilonn: 1}}", r"unknown option learner.codes.epsilonn, .*epsilon"),
        ("iterations: 5", "unknown option iterations, perhaps you meant learner.codes.iterations"),
        ("learner: {codes: {iterations: many}}", r"learner.codes.iterations: .*integer"),
        ("learner: {codes: {iterations: 0}}", "iterations must be >= 1, got 0"),
        ("when_idle: sleep", "when_idle: .*'wait', 'replay' or 'stop'"),
        ("[1, 2]", "must hold a mapping"),
        ("a: b: c", "is not YAML"),
        ("probe_train: [a.tar]", "give both or none"),
    ],
)
def test_a_mistake_in_yaml_is_named_by_its_path(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the config .*nowhere.yaml: No such file"):
        load_yaml(tmp_path / "nowhere.yaml", RunConfig())


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(ConfigError, match="perhaps you meant imagenette-cpu"):
        preset("imagenete-cpu")


def test_only_options_that_decide_the_weights_differ():
    one = preset("demo")
    watched = dataclasses.replace(one.learner, health=HealthConfig(stuck_after_steps=7))
    same = dataclasses.replace(one, when_idle="stop", run="elsewhere", learner=watched)
    assert differences(one, same) == []
    assert digest(one) == digest(same)
    codes = dataclasses.replace(one.learner.codes, iterations=9)
    softer = (dataclasses.replace(one.crops[0], scale=(0.7, 1.0)), *one.crops[1:])
    other = dataclasses.replace(
        one, learner=dataclasses.replace(one.learner, codes=codes), seed=3, crops=softer
    )
    assert [(str(d), d.unchangeable) for d in differences(one, other)] == [
        (f"crops.0.scale.0: {one.crops[0].scale[0]} -> 0.7", False),
        ("learner.codes.iterations: 3 -> 9", False),
        ("seed: 0 -> 3", True),
    ]
    assert digest(one) != digest(other)
