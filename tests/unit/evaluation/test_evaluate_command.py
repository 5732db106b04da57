"""`online-swav evaluate` as a user calls it: tables, JSON, and one line for every mistake."""

import dataclasses
import json

import pytest
from encoder_example import K, learner_of, publish, run_config

from online_swav.cli import main
from online_swav.commands.evaluate import PROTOCOLS
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


def test_knn_beside_its_baselines(places, capsys):
    command = (f"knn --run {places / 'run'} --baselines --trunk torchvision:shufflenet_v2_x0_5 "
               f"--limit 40 --cache {places / 'cache'} --json {places / 'a.json'}")  # fmt: skip
    code, out, err = call(capsys, command)
    assert code == 0
    for words in ("at step 10", "raw pixels", "top-1, k 200", "top-5, k 1",
                  "30 images among 40, 12 classes, 64 px"):  # fmt: skip
        assert words in " ".join(out.split()), out
    assert "raw pixels: " in err
    told = json.loads((places / "a.json").read_text())
    assert [column["trunk"] for column in told["results"]] == [
        "shufflenet_v2_x0_5 at step 10",
        "shufflenet_v2_x0_5, random weights",
        "raw pixels",
    ]
    assert "random is the same as shufflenet_v2_x0_5, random weights: judged once" in err
    assert told["settings"]["train"]["images"] == 40
    assert all(0 <= value <= 1 for one in told["results"] for value in one["values"].values())
    call(capsys, command.replace("a.json", "b.json"))
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


@pytest.mark.parametrize("protocol", [protocol.name for protocol in PROTOCOLS])
def test_help_names_every_option_with_words(protocol, capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluate", protocol, "--help"])
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
        ("knn --run {tmp}/run --json {tmp}/no/x.json", "the folder does not exist"),
        ("cluster --trunk pixels --test {tmp}/test", "raw pixels has no prototypes"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_2(places, capsys, command, message):
    code, out, err = call(capsys, command.format(tmp=places))
    assert (code, out) == (2, "")
    assert message.format(tmp=places) in err
    assert err.removeprefix("reading the labels\n").count("\n") == 1
