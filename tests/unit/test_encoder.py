"""`Encoder`: found wherever it lies, the same features from any kind of picture, refreshed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from encoder_example import DIM, SIZE, K, checkpoint, learner_of, publish, run_config
from PIL import Image

import online_swav
import online_swav.weights
from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.preprocessing import Preprocessing
from streams.errors import DecodeError


def pictures(count=3, height=40, width=57):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture
def config(tmp_path):
    return run_config(tmp_path / "run")


def test_a_run_gives_its_newest_published_encoder_else_its_newest_checkpoint(config, tmp_path):
    learner = learner_of(config)
    path = checkpoint(config, learner, step=4)
    encoder = Encoder.load(config.run)
    assert encoder.place == path
    assert (encoder.card["step"], encoder.card["backbone"]) == (4, "shufflenet_v2_x0_5")
    place = publish(config, learner, step=3)
    assert Encoder.load(tmp_path / "run").place == place
    assert Encoder.load(str(path)).card["step"] == 4
    assert Encoder.load(place).name == "shufflenet_v2_x0_5 at step 3"


def test_features_are_the_backbones_and_scores_the_models(config):
    learner = learner_of(config)
    publish(config, learner, step=1)
    encoder, images = Encoder.load(config.run), pictures()
    crops = encoder.preprocess(images)
    assert crops.shape == (3, 3, SIZE, SIZE)
    learner.model.eval()
    with torch.no_grad():
        features, _, scores = learner.model([crops[None]])
    assert torch.allclose(encoder(images), features[0], atol=1e-5)
    assert torch.allclose(encoder.scores(images), scores[0], atol=1e-5)
    assert encoder(images).shape == (3, encoder.feature_dim)
    assert encoder.scores(images[:0]).shape == (0, K)
    assert encoder(images).dtype == torch.float32
    assert not encoder(images).requires_grad


def test_the_same_pictures_as_tensor_list_files_and_pil_give_the_same(config, tmp_path):
    publish(config, learner_of(config), step=1)
    encoder, images = Encoder.load(config.run), pictures()
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for array, path in zip(arrays, paths, strict=True):
        Image.fromarray(array).save(path)
    expected = encoder(images)
    assert torch.equal(encoder(list(images)), expected)
    assert torch.equal(encoder(paths), expected)
    assert torch.equal(encoder([str(path) for path in paths]), expected)
    assert torch.equal(encoder([Image.fromarray(array) for array in arrays]), expected)


@pytest.mark.parametrize("shape", [(32, 32), (33, 95), (200, 131), (31, 40), (64, 1000)])
def test_preprocessing_is_torchvisions(shape):
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    images = pictures(1, *shape)
    plain = v2.Compose([
        v2.ToDtype(torch.float32, scale=True), v2.Resize(SIZE, antialias=True),
        v2.CenterCrop(SIZE), v2.Normalize(mean, std),
    ])  # fmt: skip
    ours = Preprocessing(size=SIZE, mean=mean, std=std)(images)
    assert torch.allclose(ours, plain(images), atol=1e-5)


def test_a_ribbon_costs_no_memory(config):
    publish(config, learner_of(config), step=1)
    encoder, seen = Encoder.load(config.run), []
    encoder.preprocessing.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    ribbon = pictures(1, 2, 60_000)
    assert encoder.preprocess(ribbon).shape == (1, 3, SIZE, SIZE)
    assert seen == [(1, 3, 2, 32)], "its middle alone is resized"


def test_refresh_takes_a_newer_one_once(config):
    first, second = learner_of(config), learner_of(config, seed=1)
    publish(config, first, step=1)
    encoder, images = Encoder.load(config.run), pictures()
    before = encoder(images)
    assert encoder.refresh() is False
    place = publish(config, second, step=2, keep=1)
    assert encoder.refresh() is True
    assert encoder.place == place
    assert not torch.equal(encoder(images), before)
    assert encoder.refresh() is False
    assert Encoder.load(place).refresh() is False


def test_a_newer_checkpoint_that_is_damaged_is_no_newer_encoder(config):
    checkpoint(config, learner_of(config), step=2)
    encoder = Encoder.load(config.run)
    newer = checkpoint(config, learner_of(config, seed=1), step=4)
    (newer / "learner.pt").write_bytes(b"cut")
    assert encoder.refresh() is False
    assert encoder.card["step"] == 2


def test_an_encoder_that_is_pruned_while_it_is_read_is_not_taken_in_part(config, monkeypatch):
    first = publish(config, learner_of(config), step=1)
    read = online_swav.weights._safetensors

    def and_meanwhile(path):
        tensors = read(path)
        if first.exists():
            publish(config, learner_of(config, seed=1), step=2, keep=1)
        return tensors

    monkeypatch.setattr("online_swav.weights._safetensors", and_meanwhile)
    encoder = Encoder.load(config.run)
    assert (encoder.card["step"], encoder.num_prototypes) == (2, K)
    monkeypatch.undo()
    assert not first.exists()


def test_a_file_needs_a_card_and_gets_along_with_one(config, tmp_path):
    learner = learner_of(config)
    place = publish(config, learner, step=1)
    file = tmp_path / "trunk.pth"
    torch.save(learner.model.backbone.state_dict(), file)
    with pytest.raises(ConfigError, match=r"no card beside it .* write trunk\.pth\.card\.json"):
        Encoder.load(file)
    preprocessing = json.loads((place / "card.json").read_text())["preprocessing"]
    card = {"backbone": "shufflenet_v2_x0_5", "preprocessing": preprocessing}
    (tmp_path / "trunk.pth.card.json").write_text(json.dumps(card))
    encoder = Encoder.load(file)
    assert torch.equal(encoder(pictures()), Encoder.load(place)(pictures()))
    assert encoder.scores(pictures()) is None
    assert encoder.name == "shufflenet_v2_x0_5 of trunk.pth"


def test_what_is_wrong_is_said_with_what_to_do(config, tmp_path):
    learner = learner_of(config)
    with pytest.raises(ConfigError, match=r"nothing at .*nowhere; give a run folder, a published"):
        Encoder.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is no run and no encoder; give a run folder"):
        Encoder.load(tmp_path)
    place = publish(config, learner, step=1)
    card = json.loads((place / "card.json").read_text())
    (place / "card.json").write_text(json.dumps(card | {"backbone": "shufflenet_v2_x1_0"}))
    with pytest.raises(ConfigError, match=r"does not fit the shufflenet_v2_x1_0 .* and \d+ more"):
        Encoder.load(place)
    (place / "card.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(ConfigError, match="does not say backbone and preprocessing"):
        Encoder.load(place)
    (place / "card.json").write_text("{")
    with pytest.raises(ConfigError, match=r"the card .*card\.json cannot be read"):
        Encoder.load(place)
    (place / "card.json").write_text(json.dumps(card))
    (place / "backbone.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="is no whole safetensors file"):
        Encoder.load(config.run)


@pytest.mark.parametrize("damage", [b"", b"not a file of weights", b"PK\x03\x04 cut", b"text\n"])
def test_a_corrupt_file_is_one_line(tmp_path, damage):
    file = tmp_path / "x.pth"
    file.write_bytes(damage)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"x\.pth is no file of weights") as caught:
        Encoder.load(file)
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_run_and_a_damaged_checkpoint(config, tmp_path):
    path = checkpoint(config, learner_of(config), step=4)
    (path / "learner.pt").write_bytes(b"cut")
    with pytest.raises(ConfigError, match="does not have the hash of its manifest"):
        Encoder.load(path)
    with pytest.raises(ConfigError, match="none of the 1 checkpoints"):
        Encoder.load(config.run)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ConfigError, match="neither a published encoder nor a checkpoint yet"):
        Encoder.load(tmp_path / "new")


def test_pictures_that_are_none(config, tmp_path):
    publish(config, learner_of(config), step=1)
    encoder = Encoder.load(config.run)
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\], and this is torch\.float32"):
        encoder(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="give a list"):
        encoder(Image.fromarray(np.zeros((9, 9, 3), np.uint8)))
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(DecodeError, match=r"x\.jpg: not a JPEG"):
        encoder([tmp_path / "x.jpg"])


def test_the_package_offers_it_without_importing_torch_for_help():
    assert online_swav.Encoder is Encoder
    code = "import sys, online_swav\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_prototypes_are_of_the_embeddings_width(config):
    learner = learner_of(config)
    publish(config, learner, step=1)
    assert Encoder.load(config.run).num_prototypes == K
    assert learner.model.prototypes.weight.shape == (K, DIM)
