"""What can be judged, and features of it, kept on disk."""

import dataclasses

import pytest
import torch
from encoder_example import SIZE, K, learner_of, publish, run_config
from safetensors.torch import load_file

from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.evaluation.data import labelled_images
from online_swav.evaluation.features import features_of, scores_of
from online_swav.evaluation.trunks import trunk_from
from online_swav.learning.model import build_backbone
from streams.testing import jpeg_bytes, write_test_shards


@pytest.fixture
def run(tmp_path):
    config = run_config(tmp_path / "run")
    publish(config, learner_of(config), step=10)
    return tmp_path / "run"


@pytest.fixture
def data(tmp_path):
    write_test_shards(tmp_path / "x", shards=1, samples_per_shard=5, labels=lambda i: i)
    return labelled_images([str(tmp_path / "x")], size=32)


def test_an_encoder_sees_what_it_sees_elsewhere(run, data):
    trunk, encoder = trunk_from(str(run)), Encoder.load(run)
    images = data.held().images
    assert torch.allclose(trunk(images), encoder(images), atol=1e-5)
    assert torch.allclose(scores_of(trunk, data).features, encoder.scores(images), atol=1e-5)
    assert (trunk.size, trunk.prototypes) == (SIZE, K)
    assert trunk.name == "shufflenet_v2_x0_5 at step 10"
    assert trunk(torch.zeros(2, 3, 48, 48, dtype=torch.uint8)).shape == (2, 1024), "no resizing"


def test_baselines(run, data):
    trunk = trunk_from(str(run))
    random = trunk_from("random", like=trunk, seed=3)
    assert random.identity == trunk_from("random", like=trunk, seed=3).identity
    assert random.identity not in (trunk.identity,
                                   trunk_from("random", like=trunk, seed=4).identity)  # fmt: skip
    assert (random.name, random.size, random.prototypes) == ("random weights", 32, None)
    pixels = trunk_from("pixels")(data.held().images)
    assert pixels.shape == (5, 3 * 32 * 32)
    assert torch.allclose(pixels.mean(dim=1), torch.zeros(5), atol=1e-4)
    large = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    large[1, :, :7, :7] = 255
    seen = trunk_from("pixels")(large)
    assert seen.shape == (2, 3 * 32 * 32), "pooled"
    assert (seen[1] - seen[0]).view(3, 1024).argmax(dim=1).tolist() == [0, 0, 0], "by regions"
    with pytest.raises(ConfigError, match="torchvision:resnet18"):
        trunk_from("random")
    with pytest.raises(ConfigError, match="raw pixels has no prototypes"):
        scores_of(trunk_from("pixels"), data)


def test_drawing_weights_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trunk_from("torchvision:shufflenet_v2_x0_5")
    assert torch.equal(torch.rand(3), expected)


def test_a_torchvision_model_with_the_weights_of_a_file(tmp_path, data):
    import torchvision

    whole = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    trunk = trunk_from(f"torchvision:shufflenet_v2_x0_5:{tmp_path / 'w.pth'}")
    assert trunk.name == "shufflenet_v2_x0_5 of w.pth"
    whole.fc = torch.nn.Identity()
    images = data.held().images
    with torch.no_grad():
        assert torch.allclose(trunk(images), whole(trunk.normalized(images)), atol=1e-6)


def test_weights_of_a_larger_model_do_not_fit(tmp_path):
    """Its names hold all those of the smaller one, with equal shapes."""
    larger, _ = build_backbone("resnet34", small_stem=False)
    torch.save(larger.state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(ConfigError, match=r"resnet18: layer1\.2\..* is unknown here; .* more"):
        trunk_from(f"torchvision:resnet18:{tmp_path / 'resnet34.pth'}")


def test_scores_are_of_one_head_and_its_prototypes(tmp_path, run, data):
    config = run_config(tmp_path / "other")
    learner = learner_of(config)  # the same backbone as the run's
    with torch.no_grad():
        learner.model.prototypes.weight.neg_()
    publish(config, learner, step=20)
    one, other = trunk_from(str(run)), trunk_from(str(tmp_path / "other"))
    assert one.identity == other.identity
    assert one.score_identity != other.score_identity
    cache = tmp_path / "cache"
    first, second = (scores_of(trunk, data, cache=cache).features for trunk in (one, other))
    assert torch.allclose(first, -second, atol=1e-6)
    assert torch.equal(scores_of(one, data, cache=cache).features, first)


def test_features_of_a_part_are_not_kept_while_an_image_is_out_of_reach(tmp_path, run, caplog):
    for name in ("a", "b", "c"):
        (tmp_path / "f" / name).mkdir(parents=True)
        (tmp_path / "f" / name / "x.jpg").write_bytes(jpeg_bytes(ord(name)))
    data = labelled_images([str(tmp_path / "f")], size=32)
    trunk, cache = trunk_from(str(run)), tmp_path / "cache"
    (tmp_path / "f" / "b" / "x.jpg").rename(tmp_path / "away")
    assert features_of(trunk, data, cache=cache).indices.tolist() == [0, 2]
    assert "0 do not decode, 1 could not be read" in caplog.text
    (tmp_path / "away").rename(tmp_path / "f" / "b" / "x.jpg")
    assert features_of(trunk, data, cache=cache).indices.tolist() == [0, 1, 2]
    assert len(list(cache.iterdir())) == 1
    (tmp_path / "f" / "b" / "x.jpg").unlink()
    assert features_of(trunk, data, cache=cache).indices.tolist() == [0, 1, 2], "from the cache"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{tmp}/no", "there is nothing at"),
        ("{tmp}", "is no run and no encoder"),
        ("torchvision:resnet81", "perhaps resnet18"),
        ("torchvision:resnet18:{tmp}/no.pth", "there is nothing at"),
        ("torchvision:resnet18:{tmp}/bad.pth", "is no file of weights"),
        ("torchvision:resnet18:{tmp}/other.pth", "does not fit torchvision's resnet18"),
        ("{tmp}/run", "is no whole safetensors file"),
    ],
)
def test_what_cannot_be_a_trunk_is_named(tmp_path, run, words, message):
    (tmp_path / "bad.pth").write_bytes(b"x" * 50)
    torch.save(build_backbone("shufflenet_v2_x0_5", small_stem=False)[0].state_dict(),
               tmp_path / "other.pth")  # fmt: skip
    (published,) = (run / "published").glob("step-*")
    (published / "backbone.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(ConfigError, match=message) as caught:
        trunk_from(words.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)


def test_features_are_kept_for_the_same_trunk_images_and_size(tmp_path, run, data):
    trunk, cache = trunk_from(str(run)), tmp_path / "cache"
    told = []
    fresh = features_of(trunk, data, cache=cache, batch_size=2, advance=told.append)
    assert told == [2, 2, 1]
    kept = features_of(trunk, data, cache=cache, advance=told.append)
    assert told[3:] == [5], "nothing was decoded"
    assert torch.equal(kept.features, fresh.features)
    assert torch.equal(kept.labels, fresh.labels)
    files = {path.name for path in cache.iterdir()}
    assert len(files) == 1
    features_of(trunk, dataclasses.replace(data, size=24), cache=cache)
    features_of(trunk, data.subset([0, 1]), cache=cache)
    features_of(trunk_from("random", like=trunk), data, cache=cache)
    scores_of(trunk, data, cache=cache)
    features_of(trunk, dataclasses.replace(data, margin=1.2), cache=cache)
    assert len(list(cache.iterdir())) == 6
    (damaged,) = [path for path in cache.iterdir() if path.name in files]
    damaged.write_bytes(b"x" * 20)
    again = features_of(trunk, data, cache=cache, batch_size=2)
    assert torch.equal(again.features, fresh.features)
    assert torch.equal(load_file(damaged)["features"], fresh.features), "made anew"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, run, data):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"--cache .* cannot be written"):
        features_of(trunk_from(str(run)), data, cache=tmp_path / "file" / "x")


def test_images_that_do_not_decode_are_told(tmp_path, run, caplog):
    for name in ("a", "b"):
        (tmp_path / "f" / name).mkdir(parents=True)
        (tmp_path / "f" / name / "x.jpg").write_bytes(jpeg_bytes(0) if name == "b" else b"no")
    found = features_of(trunk_from(str(run)), labelled_images([str(tmp_path / "f")], size=32))
    assert (found.labels.tolist(), found.indices.tolist()) == ([1], [1])
    assert "images_left_out=1 of=2" in caplog.text
    assert "1 do not decode, 0 could not be read; the first: not a JPEG" in caplog.text


def test_features_that_are_not_finite_are_refused(run, data):
    trunk = trunk_from(str(run))
    next(trunk.backbone.parameters()).data.fill_(float("nan"))
    with pytest.raises(ConfigError, match="not finite; take an earlier checkpoint"):
        features_of(trunk, data)
