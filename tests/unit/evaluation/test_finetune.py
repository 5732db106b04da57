"""Fine-tuning: the official settings, the schedule, what is trained, and the same number twice."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from online_swav.errors import ConfigError
from online_swav.evaluation import finetune as module
from online_swav.evaluation.finetune import OFFICIAL, FinetuneConfig, finetune
from online_swav.evaluation.trunks import trunk_from

QUICK = FinetuneConfig(
    fraction=1.0, trunk_rate=0.01, head_rate=0.02, epochs=3, decay_epochs=(2,), batch=8
)


def test_the_official_settings():
    one, ten = OFFICIAL["1"], OFFICIAL["10"]
    assert (one.fraction, one.trunk_rate, one.head_rate) == (0.01, 0.02, 5)
    assert (ten.fraction, ten.trunk_rate, ten.head_rate) == (0.1, 0.01, 0.2)
    for config in (one, ten):
        assert (config.epochs, config.batch, config.momentum) == (20, 256, 0.9)
        assert (config.decay_epochs, config.decay) == ((12, 16), 0.2)


def test_a_stretched_schedule_decays_at_the_same_parts():
    assert OFFICIAL["1"].stretched(100).decay_epochs == (60, 80)
    assert OFFICIAL["1"].stretched(20) == OFFICIAL["1"]


@pytest.fixture
def trunk():
    return trunk_from("torchvision:resnet18", seed=1)


def test_it_learns_twice_the_same_and_leaves_the_trunk_alone(trunk, coloured):
    train, test = coloured
    before = {name: tensor.clone() for name, tensor in trunk.backbone.state_dict().items()}
    state = torch.get_rng_state()
    told = []
    first = finetune(trunk, train, test, config=QUICK, progress=lambda *said: told.append(said))
    assert first == finetune(trunk, train, test, config=QUICK)
    other = finetune(trunk, train, test, config=dataclasses.replace(QUICK, seed=1, epochs=1))
    assert other.losses[0] != first.losses[0]
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in trunk.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(layer.training for layer in trunk.backbone.modules())
    assert first.losses[-1] < first.losses[0]
    assert (first.images, first.steps) == (16, 6)
    assert [epoch for epoch, _, _ in told] == [1, 2, 3]
    rows = dict(first.rows())
    assert rows["top-1, best epoch"] == max(figures["top-1"] for _, _, figures in told)
    assert rows["top-1, last epoch"] == told[-1][2]["top-1"]
    assert rows["labelled images"] == 16


def test_trunk_and_head_have_their_own_rates_and_fall_together(trunk, coloured, monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def noted(self, *arguments, **options):
        rates.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    finetune(trunk, *coloured, config=dataclasses.replace(QUICK, batch=16))
    assert [[rate for rate, _ in groups] for groups in rates] == [
        pytest.approx([0.01, 0.02]), pytest.approx([0.01, 0.02]), pytest.approx([0.002, 0.004])
    ]  # fmt: skip
    assert {decay for groups in rates for _, decay in groups} == {0}


def test_a_batch_of_one_is_left_out(trunk, coloured):
    train, test = coloured
    result = finetune(trunk, train.subset(range(9)), test, config=QUICK)
    assert result.steps == 3  # one of eight images in each epoch, and none of one


def test_many_test_images_are_decoded_anew_and_score_the_same(trunk, coloured, monkeypatch):
    held = finetune(trunk, *coloured, config=QUICK)
    monkeypatch.setattr(module, "_HELD_BYTES", 0)
    monkeypatch.setattr(type(coloured[1]), "held", None)
    assert finetune(trunk, *coloured, config=QUICK) == held


def test_images_that_do_not_decode_are_told_and_not_counted(trunk, coloured, caplog):
    train, test = coloured
    Path(train.places[3].path).write_bytes(b"no picture")
    Path(test.places[0].path).write_bytes(b"no picture")
    result = finetune(trunk, train, test, config=dataclasses.replace(QUICK, epochs=2))
    assert result.images == 15
    assert caplog.text.count("images_left_out=1 of=16") == 1
    assert caplog.text.count("images_left_out=1 of=8") == 1


@pytest.mark.parametrize("held_bytes", [0, 2**30])
def test_no_test_image_decodes(trunk, coloured, monkeypatch, held_bytes):
    monkeypatch.setattr(module, "_HELD_BYTES", held_bytes)
    train, test = coloured
    for place in test.places:
        Path(place.path).unlink()
    with pytest.raises(ConfigError, match=r"none of the 8 images in .*test decodes"):
        finetune(trunk, train, test, config=dataclasses.replace(QUICK, epochs=1))


def test_what_cannot_be_fine_tuned(trunk, coloured):
    train, test = coloured
    with pytest.raises(ConfigError, match="raw pixels has no weights"):
        finetune(trunk_from("pixels"), train, test, config=QUICK)
    with pytest.raises(ConfigError, match="at least two labelled images, got 1"):
        finetune(trunk, train.subset([0]), test, config=QUICK)
    several = dataclasses.replace(train, labels=torch.ones(len(train), 2, dtype=torch.bool))
    with pytest.raises(ConfigError, match="one label for each image"):
        finetune(trunk, several, test, config=QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"head_rate": 0.0}, {"head_rate": math.nan},
     {"trunk_rate": math.nan}],
)  # fmt: skip
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(QUICK, **wrong)
