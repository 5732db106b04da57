"""`evaluate linear`, `finetune`, `transfer` and `detection`, as they are typed."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from online_swav.commands.evaluate import evaluate
from online_swav.errors import ConfigError
from online_swav.evaluation.data import labelled_images
from streams.testing import write_test_shards


@pytest.fixture
def typed(coloured_folders, tmp_path, capsys):
    """Runs a protocol on the coloured images; its values by trunk, its settings, its output."""

    def run(protocol, *options, trunks=("torchvision:resnet18",), images=True):
        words = [protocol, "--device", "cpu", "--json", str(tmp_path / "out.json"), *options]
        for trunk in trunks:
            words += ["--trunk", trunk]
        if images:
            words += ["--train", coloured_folders.train, "--test", coloured_folders.test]
            words += ["--size", "32"]
        assert evaluate(words) == 0
        told = json.loads((tmp_path / "out.json").read_text())
        values = {result["trunk"]: result["values"] for result in told["results"]}
        return values, told["settings"], capsys.readouterr()

    return run


def test_linear_in_both_modes(typed):
    for mode in ("cached", "augmented"):
        values, settings, output = typed(
            "linear", "--mode", mode, "--epochs", "3", "--rates", "0.001", "0.01", "0.001",
            trunks=("pixels",),
        )  # fmt: skip
        assert values["raw pixels"]["top-1, last epoch"] == 1.0
        assert (settings["mode"], settings["rates"]) == (mode, [0.001, 0.01])
        assert "top-1, last epoch, rate 0.01" in output.out
        assert ("epoch 3 of 3" in output.err) == (mode == "augmented")


def test_the_official_preset_is_augmented_at_one_rate(typed):
    _, settings, output = typed(
        "linear", "--preset", "official", "--epochs", "1", trunks=("pixels",)
    )  # fmt: skip
    assert (settings["mode"], settings["rates"], settings["batch"]) == ("augmented", [0.3], 256)
    assert (settings["size"], settings["short_side"]) == (32, 37)
    assert "32 px of 37" in " ".join(output.out.split())


def test_finetune_on_both_parts_leaves_pixels_out(typed):
    values, settings, output = typed(
        "finetune", "--epochs", "2", "--head-rate", "0.02",
        trunks=("torchvision:resnet18", "pixels"),
    )  # fmt: skip
    assert list(values) == ["resnet18, random weights"]
    values = values["resnet18, random weights"]
    assert values["1%: labelled images"] == values["10%: labelled images"] == 2
    assert settings["labels"]["1"]["trunk_rate"] == 0.02
    assert settings["labels"]["10"]["decay_epochs"] == [1, 2]
    assert settings["labels"]["10"]["head_rate"] == 0.02
    assert (settings["size"], settings["short_side"]) == (32, 37)
    assert "raw pixels: no weights to fine-tune, left out" in output.err
    assert "10%: epoch 2 of 2, loss" in output.err


def test_finetune_on_a_list(typed, tmp_path):
    (tmp_path / "list.txt").write_text("red0_1.png\nsea0_5.png\nsea0_2\n")
    values, settings, _ = typed(
        "finetune", "--labels", "10", "--list", str(tmp_path / "list.txt"), "--epochs", "1"
    )
    assert values["resnet18, random weights"]["list: labelled images"] == 3
    assert settings["list"].endswith("list.txt")


def test_names_in_shards_are_the_keys(tmp_path):
    write_test_shards(tmp_path, shards=1, samples_per_shard=3, labels=lambda number: number)
    places = labelled_images([str(tmp_path)], size=16).places
    assert len({place.name for place in places}) == 3
    assert not any("/" in place.name or ".tar" in place.name for place in places)


def test_transfer(typed):
    values, settings, output = typed(
        "transfer", "--rates", "0.001", "--epochs", "3", trunks=("pixels",)
    )  # fmt: skip
    assert (settings["mode"], settings["short_side"]) == ("cached", 32)
    assert "cached features" in output.out
    _, settings, _ = typed("transfer", "--preset", "official", "--epochs", "1", trunks=("pixels",))
    assert (settings["mode"], settings["short_side"]) == ("cached", 37)
    assert values["raw pixels"]["linear top-1, last epoch"] == 1.0
    assert values["raw pixels"]["k-NN top-1, k 5"] == 1.0
    assert "one label" in output.out


def test_detection_needs_no_images_and_leaves_out_what_is_no_resnet(typed):
    values, settings, output = typed(
        "detection", "--steps", "1", "--size", "64",
        trunks=("torchvision:resnet18", "pixels"), images=False,
    )  # fmt: skip
    assert list(values) == ["resnet18, random weights"]
    assert values["resnet18, random weights"]["trunk tensors loaded"] == 100
    assert settings["size"] == 64
    assert "train" not in settings
    assert "raw pixels: no ResNet, left out" in output.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["linear", "--epochs", "0"], "at least 1"),
        (["linear", "--rates", "0"], "must be > 0"),
        (["linear", "--rates", "nan"], "must be > 0"),
        (["linear", "--seed", "-1"], "--seed must be in"),
        (["transfer", "--batch-size", "0"], "at least 1"),
        (["finetune", "--epochs", "0"], "--epochs must be at least 1"),
        (["finetune", "--batch-size", "1"], "at least 2"),
        (["finetune", "--list", "x.txt"], "--labels 1 or --labels 10"),
        (["finetune", "--labels", "1", "--list", "x.txt"], "cannot be read"),
        (["finetune", "--trunk", "pixels"], "none of the trunks has weights"),
        (["detection", "--size", "8"], "at least 32"),
        (["detection", "--trunk", "pixels"], "no torchvision ResNet"),
        (["detection"], "nothing to judge"),
    ],
)
def test_mistakes(coloured_folders, words, said):
    places = ["--train", coloured_folders.train, "--test", coloured_folders.test]
    words = words + (places if words[0] != "detection" else [])
    if words != ["detection"] and "pixels" not in words:
        words += ["--trunk", "torchvision:resnet18"]
    with pytest.raises(ConfigError, match=said):
        evaluate(words)


def test_several_labels_from_shards(tmp_path):
    """KEY.json all the way: the left half is red or not, the right half is blue or not."""
    rng = np.random.default_rng(0)
    sides = {}
    for side in ("train", "test"):
        sides[side] = tmp_path / side / "shard-000000.tar"
        sides[side].parent.mkdir()
        with tarfile.open(sides[side], "w") as tar:
            for number in range(24):
                labels = [label for label in (0, 1) if number >> label & 1]
                pixels = rng.integers(0, 60, size=(32, 32, 3), dtype=np.uint8)
                for label in labels:
                    pixels[:, 16 * label : 16 * label + 16, 2 * label] += 180
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG")
                for suffix, data in (
                    ("png", picture.getvalue()),
                    ("json", json.dumps({"labels": labels}).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:03}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    words = ["--trunk", "pixels", "--train", str(sides["train"]), "--test", str(sides["test"]),
             "--size", "32", "--device", "cpu"]  # fmt: skip
    out = tmp_path / "out.json"
    chosen = ["--rates", "0.001", "--epochs", "10", "--json", str(out)]
    assert evaluate(["transfer", *words, *chosen]) == 0
    values = json.loads(out.read_text())["results"][0]["values"]
    assert values["linear mAP, last epoch"] == 1.0
    assert values["k-NN mAP 11-point, k 20"] == 1.0
    for protocol in ("linear", "finetune"):
        with pytest.raises(ConfigError, match="several"):
            evaluate([protocol, *words])
