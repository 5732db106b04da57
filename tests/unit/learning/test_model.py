"""Backbones without their classifier, and the shapes and norms of the model."""

import pytest
import torch

from online_swav.learning.model import SwavModel, build_backbone


def build(**over):
    return SwavModel(
        **{"backbone": "shufflenet_v2_x0_5", "small_stem": False, "hidden_dim": 16,
           "embedding_dim": 8, "num_prototypes": 12, **over}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet18", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("mobilenet_v3_small", 576),
        ("efficientnet_b0", 1280),
        ("convnext_tiny", 768),
        ("swin_t", 768),
        ("densenet121", 1024),
    ],
)
def test_backbones_give_flat_features_for_crops_of_several_sizes(name, width):
    backbone, feature_dim = build_backbone(name, small_stem=False)
    assert feature_dim == width
    backbone.eval()
    with torch.no_grad():
        for side in (32, 48):
            assert backbone(torch.rand(2, 3, side, side)).shape == (2, width)


def test_auxiliary_classifiers_are_removed():
    with pytest.warns(FutureWarning, match="init_weights|weight initialization"):
        backbone, width = build_backbone("googlenet", small_stem=False)
    assert backbone(torch.rand(2, 3, 64, 64)).shape == (2, width)


def test_the_small_stem_keeps_eight_times_finer_maps():
    backbone, _ = build_backbone("resnet18", small_stem=True)
    shapes = []
    backbone.layer4.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape[-1]))
    backbone(torch.rand(2, 3, 32, 32))
    assert shapes == [4]


@pytest.mark.parametrize(
    ("name", "small_stem", "message"),
    [
        ("resnet81", False, "no classification model 'resnet81'; perhaps resnet18"),
        ("zzz", False, "list_models"),
        ("vit_b_16", False, "one size only"),
        ("squeezenet1_0", False, "no linear layer"),
        ("shufflenet_v2_x0_5", True, "small_stem needs a ResNet"),
    ],
)
def test_unsuitable_backbones_are_refused(name, small_stem, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, small_stem=small_stem)


@pytest.mark.parametrize("hidden_dim", [0, 16])
def test_scores_are_cosines_of_unit_embeddings_and_prototypes(hidden_dim):
    model = build(hidden_dim=hidden_dim)
    features, embeddings, scores = model([torch.rand(2, 3, 3, 32, 32), torch.rand(4, 3, 3, 24, 24)])
    assert features.shape == (6, 3, model.feature_dim)
    assert embeddings.shape == (6, 3, 8)
    assert scores.shape == (6, 3, 12)
    torch.testing.assert_close(embeddings.norm(dim=2), torch.ones(6, 3))
    expected = torch.nn.functional.cosine_similarity(
        embeddings[:, :, None], model.prototypes.weight[None, None], dim=3
    )
    torch.testing.assert_close(scores, expected)


def test_views_of_an_image_keep_their_place():
    model = build().eval()
    families = [torch.rand(2, 3, 3, 32, 32), torch.rand(4, 3, 3, 24, 24)]
    _, embeddings, _ = model(families)
    _, alone, _ = model([families[1][1:2, 2:3]])
    torch.testing.assert_close(embeddings[3, 2], alone[0, 0])


def test_norms_and_scores_are_float32_under_autocast():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, embeddings, scores = model([torch.rand(2, 3, 3, 48, 48)])
    assert embeddings.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=2), torch.ones(2, 3))


def test_the_backbone_runs_once_per_family():
    model = build()
    calls = []
    model.backbone.register_forward_hook(lambda _m, inputs, _o: calls.append(inputs[0].shape))
    model([torch.rand(2, 3, 3, 32, 32), torch.rand(4, 3, 3, 24, 24)])
    assert calls == [(6, 3, 32, 32), (12, 3, 24, 24)]
