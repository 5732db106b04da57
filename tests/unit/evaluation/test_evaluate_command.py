"""`online-swav evaluate` as a user calls it: tables, JSON, and one line for every mistake."""

import argparse
import dataclasses
import json
import shutil

import pytest
import torch
from encoder_example import K, learner_of, publish, run_config

from online_swav.cli import main
from online_swav.commands.evaluate import PROTOCOLS
from online_swav.commands.protocol import Bench, judge
from online_swav.errors import ConfigError
from online_swav.evaluation.data import LabelledSet
from online_swav.evaluation.trunks import trunk_from
from streams.synthetic import write_synthetic_shard
from streams.testing import jpeg_bytes, write_test_shards


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run, labelled images of both sides, and what is wrong in several ways."""
    tmp_path = tmp_path_factory.mktemp("evaluate")
    for index, (name, count) in enumerate((("train", 60), ("test", 30))):
        (tmp_path / name).mkdir()
        write_synthetic_shard(tmp_path / name / "a.tar", num_samples=count, seed=0,
                              shard_index=index, size=32)  # fmt: skip
    publish_run(tmp_path / "run", train=tmp_path / "train", test=tmp_path / "test")
    (tmp_path / "empty").mkdir()
    write_test_shards(tmp_path / "unlabelled", shards=1, samples_per_shard=3)
    write_test_shards(tmp_path / "strange", shards=1, samples_per_shard=3, labels=lambda i: 20 + i)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.jpg").write_bytes(jpeg_bytes(0))
    encoder = publish_run(tmp_path / "damaged", train="x", test="x")
    (encoder / "backbone.safetensors").write_bytes(b"x" * 50)
    return tmp_path


def publish_run(run, *, train, test):
    config = dataclasses.replace(
        run_config(run), probe_train=(str(train),), probe_test=(str(test),)
    )
    return publish(config, learner_of(config), step=10)


def call(capsys, command):
    code = main(["evaluate", *command.split()])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_knn_beside_its_baselines(places, capsys, monkeypatch):
    model = "torchvision:shufflenet_v2_x0_5"
    command = (f"knn --run {places / 'run'} --baselines --trunk {model} --trunk {model} "
               f"--limit 40 --cache {places / 'cache'} --json {places / 'a.json'}")  # fmt: skip
    code, out, err = call(capsys, command)
    assert code == 0
    for words in ("at step 10", "raw pixels", "top-1, k 200", "top-5, k 1",
                  "30 images among 40, 12 classes, 64 px"):  # fmt: skip
        assert words in " ".join(out.split()), out
    assert "raw pixels: " in err
    told = json.loads((places / "a.json").read_text())
    assert told["complete"] is True
    assert [column["trunk"] for column in told["results"]] == [
        "shufflenet_v2_x0_5 at step 10",
        "shufflenet_v2_x0_5, random weights",
        "random weights",  # normalised as the run's
        "raw pixels",
    ]
    assert f"{model} is the same as shufflenet_v2_x0_5, random weights: judged once" in err
    assert told["settings"]["train"]["images"] == 40
    assert all(0 <= value <= 1 for one in told["results"] for value in one["values"].values())
    monkeypatch.setattr(LabelledSet, "picture", None)  # nothing is decoded
    code, _, err = call(capsys, command.replace("a.json", "b.json"))
    assert code == 0, err
    again = json.loads((places / "b.json").read_text())
    assert [one["values"] for one in again["results"]] == [
        one["values"] for one in told["results"]
    ], "the same numbers twice, from the cache"


def test_clusters_beside_k_means_of_the_baselines(places, capsys):
    code, out, _ = call(capsys, f"cluster --run {places / 'run'} --baselines "
                                f"--test {places / 'test'} --json {places / 'a.json'}")  # fmt: skip
    assert code == 0
    assert "k-means: purity" in " ".join(out.split())
    told = json.loads((places / "a.json").read_text())
    values = [column["values"] for column in told["results"]]
    assert ["prototypes: NMI" in one for one in values] == [True, False, False]
    assert [one["k-means: clusters"] for one in values] == [K, K, K]
    assert values[2]["k-means: clusters used"] == K
    assert told["settings"]["test"]["images"] == 30


def test_fewer_images_than_prototypes_leave_the_prototypes(places, capsys):
    code, out, err = call(capsys, f"cluster --run {places / 'run'} --limit {K - 1}")
    assert code == 0
    assert f"no k-means: {K - 1} images cannot make {K} clusters" in err
    assert "prototypes: NMI" in out
    assert "k-means" not in out


def test_k_means_counts_what_decodes(tmp_path, places, capsys):
    for number in range(K):
        folder = tmp_path / "images" / f"class{number}"
        folder.mkdir(parents=True)
        (folder / "x.jpg").write_bytes(jpeg_bytes(number) if number else b"no picture")
    code, out, err = call(capsys, f"cluster --run {places / 'run'} --test {tmp_path / 'images'}")
    assert code == 0
    assert f"no k-means: {K - 1} images that decode cannot make {K} clusters" in err
    assert "prototypes: NMI" in out


def test_a_bare_trunk_does_not_stand_for_one_with_prototypes(tmp_path, places, capsys):
    (published,) = (places / "run" / "published").glob("step-*")
    for name in ("backbone.safetensors", "card.json"):
        shutil.copy(published / name, tmp_path)
    bare = tmp_path / "backbone.safetensors"
    code, out, err = call(capsys, f"cluster --trunk {bare} --trunk {places / 'run'} "
                                  f"--test {places / 'test'}")  # fmt: skip
    assert code == 0, err
    assert "prototypes: NMI" in out
    assert "judged once" not in err


def test_what_was_judged_before_an_error_is_told(tmp_path, capsys):
    class Found:
        def rows(self):
            return [("learning rate", 1e-5), ("top-1", 0.25), ("steps", 4000)]

    def one(trunk):
        if trunk.name != "raw pixels":
            raise ConfigError("it cannot be judged")
        return Found()

    trunks = trunk_from("pixels"), trunk_from("torchvision:shufflenet_v2_x0_5")
    bench = Bench(trunks=trunks, sides=(), device=torch.device("cpu"))
    options = argparse.Namespace(seed=0, json=tmp_path / "a.json")
    with pytest.raises(ConfigError, match="it cannot be judged"):
        judge(PROTOCOLS[0], options, bench, one, title="a title", settings={})
    out = " ".join(capsys.readouterr().out.split())
    for words in ("a title (not finished)", "learning rate │ 1e-05", "0.2500", "4,000"):
        assert words in out, out
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["complete"] is False
    assert [column["trunk"] for column in told["results"]] == ["raw pixels"]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_help_names_every_option_with_words(protocol, capsys):
    parser = argparse.ArgumentParser()
    protocol.add_options(parser)
    bare = [action.option_strings for action in parser._actions if not action.help]
    assert bare == []
    with pytest.raises(SystemExit) as left:
        main(["evaluate", protocol.name, "--help"])
    assert left.value.code == 0
    assert "--json FILE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("knn", "nothing to judge"),
        ("knn --run {tmp}/no", "is no run folder"),
        ("knn --trunk pixels", "--train PLACE and --test PLACE are needed"),
        ("cluster --trunk pixels", "--test PLACE is needed"),
        ("knn --run {tmp}/run --train {tmp}/unlabelled", "--train: no labelled image in"),
        ("knn --run {tmp}/run --test {tmp}/empty", "--test: {tmp}/empty holds neither shards"),
        ("knn --run {tmp}/run --test {tmp}/strange", "the classes differ: --train has 12"),
        ("knn --run {tmp}/run --test {tmp}/loose", "put the images of each class into a folder"),
        ("knn --run {tmp}/damaged", "backbone.safetensors is no whole safetensors file"),
        ("knn --run {tmp}/run --trunk {tmp}/empty", "is no run and no encoder"),
        ("knn --run {tmp}/run --size 0", "--size must be at least 1"),
        ("knn --run {tmp}/run --limit 0", "--limit must be at least 1"),
        ("knn --run {tmp}/run -k 0", "-k must be at least 1"),
        ("knn --run {tmp}/run --temperature 0", "--temperature must be positive"),
        ("knn --run {tmp}/run --temperature nan", "--temperature must be positive"),
        ("cluster --run {tmp}/run --seed -1", "--seed must be in [0, 2**32), got -1"),
        ("knn --run {tmp}/run --json {tmp}/no/x.json", "the folder does not exist"),
        ("cluster --trunk pixels --test {tmp}/test", "raw pixels has no prototypes"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_2(places, capsys, command, message):
    code, out, err = call(capsys, command.format(tmp=places))
    assert (code, out) == (2, "")
    assert message.format(tmp=places) in err
    assert err.removeprefix("reading the labels\n").count("\n") == 1
