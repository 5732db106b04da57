"""Every export gives the encoder's features to a process that does not have this package."""

import dataclasses
import json

import pytest
import torch
import torchvision
from encoder_example import checkpoint, learner_of, publish, run_config
from safetensors import SafetensorError, safe_open

from online_swav.cli import main
from online_swav.commands.export import FORMATS as LISTED
from online_swav.encoder import Encoder
from online_swav.errors import ConfigError, OnlineSwavError
from online_swav.export.formats import FORMATS
from online_swav.export.load_back import LoadBack, load_back, random_pictures
from online_swav.export.trunk import headless_line
from online_swav.export.write import export_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = run_config(tmp_path_factory.mktemp("export") / "run", backbone="resnet18")
    publish(config, learner_of(config), step=7)
    return config.run


@pytest.fixture
def pictures():
    return [batch[:2] for batch in random_pictures()]


@pytest.mark.parametrize(
    ("format_name", "suffix"),
    [("torchvision", ".pth"), ("safetensors", ".safetensors"), ("onnx", ".onnx"),
     ("torch-export", ".pt2"), ("official", ".pth.tar")],
)  # fmt: skip
def test_it_is_loaded_back_in_a_fresh_process(run, tmp_path, pictures, format_name, suffix):
    encoder, out = Encoder.load(run), tmp_path / f"x{suffix}"
    done = export_encoder(encoder, FORMATS[format_name], out, pictures=pictures)
    assert done.check.images == 5
    assert done.check.max_abs_error < 1e-4 < done.check.max_abs_feature
    card = json.loads((tmp_path / f"x{suffix}.card.json").read_text())
    assert card["check"]["max_abs_error"] == done.check.max_abs_error
    assert (card["step"], card["export"]["format"]) == (7, format_name)
    assert {path.name for path in tmp_path.iterdir()} == {f"x{suffix}", f"x{suffix}.card.json"}
    if suffix not in (".onnx", ".pt2"):
        again = Encoder.load(out)
        assert torch.equal(again(pictures[0]), encoder(pictures[0]))
        assert (again.num_prototypes is not None) == (format_name == "official")
        assert (done.check.max_abs_score_error is not None) == (format_name == "official")
    if format_name == "torchvision":
        model = torchvision.models.resnet18()
        model.load_state_dict(torch.load(out, weights_only=True), strict=True)
        assert not model.fc.weight.any()
        assert card["export"]["notes"] == [
            "fc.weight, fc.bias: zeros, for strict=True; the run trained no classifier"
        ]
    elif format_name == "safetensors":
        with safe_open(out, "pt") as file:
            assert json.loads(file.metadata()["card"])["preprocessing"]["size"] == 32
    elif format_name == "official":
        state = torch.load(out, weights_only=True)["state_dict"]
        assert {"module.conv1.weight", "module.projection_head.0.weight",
                "module.prototypes.weight"} <= state.keys()  # fmt: skip


def test_a_file_that_is_not_the_encoder_is_not_left_behind(run, tmp_path, pictures):
    zeros = "def encode(images): return numpy.zeros((len(images), 512), numpy.float32)"
    wrong = dataclasses.replace(FORMATS["safetensors"], how_to_load=lambda _encoder: zeros)
    with pytest.raises(OnlineSwavError, match="gives other features than the encoder: they differ"):
        export_encoder(Encoder.load(run), wrong, tmp_path / "x.safetensors", pictures=pictures)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_load_or_needs_this_package_is_told(run, tmp_path, pictures):
    encoder = Encoder.load(run)
    with pytest.raises(OnlineSwavError, match=r"does not load in a fresh process: NameError"):
        load_back(tmp_path / "x", how_to_load="nothing", encoder=encoder, pictures=pictures)
    ours = "import streams\ndef encode(images): return images"
    with pytest.raises(OnlineSwavError, match="imported streams"):
        load_back(tmp_path / "x", how_to_load=ours, encoder=encoder, pictures=pictures)


def test_small_stem_does_not_fit_the_plain_constructor(tmp_path):
    config = run_config(tmp_path / "run", backbone="resnet18", small_stem=True)
    publish(config, learner_of(config), step=1)
    encoder = Encoder.load(config.run)
    for name in ("torchvision", "official"):
        with pytest.raises(ConfigError, match=r"3x3 stem .* torchvision\.models\.resnet18\(\)"):
            FORMATS[name].check(encoder)
    FORMATS["onnx"].check(encoder)
    lines = FORMATS["safetensors"].how_to_load(encoder)
    space = {"FILE": str(encoder.place / "backbone.safetensors")}
    exec(lines, space)
    image = random_pictures()[0][:1]
    assert torch.allclose(torch.from_numpy(space["encode"](image.numpy())), encoder(image),
                          atol=1e-4)  # fmt: skip


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize(
    ("backbone", "line"),
    [("shufflenet_v2_x0_5", "model.fc = torch.nn.Identity()"),
     ("mobilenet_v3_small", "model.classifier = model.classifier[:0]"),
     ("convnext_tiny", "model.classifier = model.classifier[:2]"),
     ("swin_t", "model.head = torch.nn.Identity()"),
     ("googlenet", "model.aux1 = model.aux2 = None; model.aux_logits = False; "
      "model.fc = torch.nn.Identity()")],
)  # fmt: skip
def test_the_classifier_is_found_in_every_kind_of_model(backbone, line):
    class Named:
        card = {"backbone": backbone}  # noqa: RUF012

    assert headless_line(Named()) == line


def test_official_wants_a_resnet_with_prototypes(tmp_path):
    config = run_config(tmp_path / "run")
    publish(config, learner_of(config), step=1)
    with pytest.raises(ConfigError, match="has ResNets only, and this is a shufflenet_v2_x0_5"):
        FORMATS["official"].check(Encoder.load(config.run))


def test_the_users_mistakes_are_told_before_anything_is_written(run, tmp_path, capsys):
    def said(*options, folder=run):
        assert main(["export", "--run", str(folder), *options]) == 2
        return capsys.readouterr().err

    out = str(tmp_path / "x.pth")
    assert "ends with .onnx" in said("--format", "onnx", "--out", out)
    assert "which is no folder" in said(
        "--format", "official", "--out", str(tmp_path / "no" / "x.pt")
    )
    assert "has no checkpoint of step 3; there is none yet" in said(
        "--format", "official", "--out", out, "--checkpoint", "3"
    )
    assert "no image in" in said(
        "--format", "official", "--out", out, "--check-images", str(tmp_path)
    )
    assert "is no run folder" in said("--format", "official", "--out", out, folder=tmp_path)
    (tmp_path / "a.jpg").write_text("no picture")
    assert "a.jpg: not a JPEG" in said(
        "--format", "official", "--out", out, "--check-images", str(tmp_path)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_the_command_tells_what_it_wrote_of_which_checkpoint(tmp_path, capsys, monkeypatch):
    found = LoadBack(images=8, max_abs_error=1.5e-5, max_abs_feature=3.0, max_abs_score_error=None,
                     libraries={"torch": "9.9"})  # fmt: skip
    monkeypatch.setattr("online_swav.export.write.load_back", lambda *_args, **_options: found)
    config = run_config(tmp_path / "run")
    for step in (2, 4):
        checkpoint(config, learner_of(config, seed=step), step=step)
    out = tmp_path / "x.safetensors"
    options = ["export", "--run", config.run, "--format", "safetensors", "--out", str(out)]
    assert main([*options, "--checkpoint", "3"]) == 2
    assert "those there are of 2, 4" in capsys.readouterr().err
    assert main([*options, "--checkpoint", "2"]) == 0
    told = capsys.readouterr().out
    assert "shufflenet_v2_x0_5 at step 2: 1024 features of 32 px pictures" in told
    assert "(torch 9.9), 8 random pictures:\n  features differ by 1.5e-05 at most" in told
    assert f'FILE = "{out}"' in told
    assert Encoder.load(out).card["step"] == 2


def test_a_relative_place_and_the_real_check(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["export", "--run", str(run), "--format", "safetensors", "--out", "x.safetensors"]
    assert main(command) == 0
    assert "loaded back in a fresh process (torch 2" in capsys.readouterr().out
    assert Encoder.load("x.safetensors").card["step"] == 7


@pytest.mark.parametrize(
    "refusal",
    [OSError(28, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc]"),
     SafetensorError("I/O error: No space left on device")],
)  # fmt: skip
def test_a_disk_that_refuses_is_told_and_leaves_nothing(run, tmp_path, pictures, refusal):
    def write(_encoder, out, _card):
        out.write_bytes(b"half")
        raise refusal

    full = dataclasses.replace(FORMATS["safetensors"], write=write)
    with pytest.raises(ConfigError, match=r"x.safetensors cannot be written: .*(space|enforce)"):
        export_encoder(Encoder.load(run), full, tmp_path / "x.safetensors", pictures=pictures)
    assert list(tmp_path.iterdir()) == []


def test_the_command_knows_every_format():
    assert LISTED.keys() == FORMATS.keys()
