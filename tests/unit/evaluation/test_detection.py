"""The trunk in a detector: every weight arrives, and the loss falls."""

import dataclasses

import pytest
import torch

from online_swav.errors import ConfigError
from online_swav.evaluation.detection import (
    DetectionConfig,
    detection,
    detector,
    drawn,
    weights_and_statistics,
)
from online_swav.evaluation.trunks import trunk_from
from online_swav.learning.model import build_backbone

CONFIG = DetectionConfig(steps=4, size=64)


def test_every_weight_arrives_and_the_loss_falls():
    trunk = trunk_from("torchvision:resnet18", seed=1)
    before = {name: tensor.clone() for name, tensor in trunk.backbone.state_dict().items()}
    result = detection(trunk, config=CONFIG)
    assert result.tensors == result.tensors_wanted == 100  # 20 convolutions, 20 norms of four
    assert result.parameters == sum(
        t.numel() for t in weights_and_statistics(trunk.backbone).values()
    )
    assert len(result.losses) == 4
    assert result.losses[-1] < result.losses[0]
    rows = dict(result.rows())
    assert rows["trunk tensors loaded"] == rows["of"] == 100
    assert rows["loss, step 4"] == result.losses[-1]
    for name, tensor in trunk.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    again = detection(trunk, config=dataclasses.replace(CONFIG, steps=2))
    assert again.losses == result.losses[:2]


def test_a_stem_for_small_pictures_goes_along():
    trunk = trunk_from("torchvision:resnet18")
    small, _ = build_backbone("resnet18", small_stem=True)
    model = detector(dataclasses.replace(trunk, backbone=small.eval()), classes=4, size=64)
    held = model.backbone.body.state_dict()
    assert all(torch.equal(held[name], t) for name, t in weights_and_statistics(small).items())


def test_the_detector_normalizes_as_the_trunk():
    trunk = trunk_from("torchvision:resnet18")
    trunk = dataclasses.replace(trunk, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = detector(trunk, classes=4, size=64)
    assert model.transform.image_mean == [0.1, 0.2, 0.3]
    assert model.transform.image_std == [0.4, 0.5, 0.6]


def test_boxes_lie_on_their_rectangles():
    pictures, targets = drawn(count=4, size=96, seed=0)
    for picture, target in zip(pictures, targets, strict=True):
        assert len(target["boxes"]) == len(target["labels"]) >= 1
        x, y, right, bottom = target["boxes"][-1].int().tolist()  # drawn last, so on top
        assert 0 <= x < right <= 96
        assert 0 <= y < bottom <= 96
        inside = picture[:, y:bottom, x:right].flatten(1)
        assert (inside == inside[:, :1]).all()
        assert int(inside[:, 0].argmax()) + 1 == target["labels"][-1]


@pytest.mark.parametrize("spec", ["pixels", "torchvision:convnext_tiny"])
def test_only_a_resnet_has_four_stages(spec):
    with pytest.raises(ConfigError, match="no torchvision ResNet"):
        detection(trunk_from(spec), config=CONFIG)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"size": 16}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="at least"):
        DetectionConfig(**wrong)
