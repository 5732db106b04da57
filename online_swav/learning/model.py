"""Backbone, projection head and prototypes: crops to embeddings and scores (paper section 3)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Bool, Float
from torch import Tensor, nn

_ONE_SIZE_ONLY = ("vit_", "maxvit_")


def build_backbone(name: str, *, small_stem: bool) -> tuple[nn.Module, int]:
    """A torchvision classification model without its classifier, and its feature width F.

    Of the classifier, what stands before its first linear layer stays (pooling, norms), without
    dropout. Auxiliary classifiers go too.

    Raises:
        ValueError: If there is no such model, it takes pictures of one size only, its classifier
            is not found, or `small_stem` is asked of something that is no ResNet.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"perhaps {' or '.join(close)}" if close else "see torchvision.models.list_models()"
        raise ValueError(f"torchvision has no classification model {name!r}; {hint}")
    if name.startswith(_ONE_SIZE_ONLY):
        raise ValueError(
            f"{name} takes pictures of one size only, and multi-crop has several; try a ResNet, "
            "convnext_tiny or swin_t"
        )
    model = torchvision.models.get_model(name, weights=None)
    if small_stem:
        if not isinstance(model, torchvision.models.ResNet):
            raise ValueError(f"small_stem needs a ResNet, and {name} is none")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    attribute, classifier = find_classifier(model)
    if classifier is None:
        raise ValueError(f"the classifier of {name} was not found; try a ResNet")
    before, linear = _split_at_first_linear(classifier)
    if linear is None:
        raise ValueError(f"the classifier of {name} has no linear layer; try a ResNet")
    setattr(model, attribute, before)
    for auxiliary in ("aux1", "aux2", "AuxLogits"):
        if hasattr(model, auxiliary):
            setattr(model, auxiliary, None)
            model.aux_logits = False
    return model, linear.in_features


def find_classifier(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The classifier of a torchvision model, and the attribute that holds it; None without."""
    for attribute in ("fc", "classifier", "heads", "head"):
        classifier = getattr(model, attribute, None)
        if isinstance(classifier, nn.Module):
            return attribute, classifier
    return "", None


def _split_at_first_linear(classifier: nn.Module) -> tuple[nn.Sequential, nn.Linear | None]:
    """What runs before the first linear layer, dropout aside, and that layer."""
    kept: list[nn.Module] = []
    for layer in classifier if isinstance(classifier, nn.Sequential) else [classifier]:
        if isinstance(layer, nn.Linear):
            return nn.Sequential(*kept), layer
        if not isinstance(layer, nn.Dropout):
            kept.append(layer)
    return nn.Sequential(*kept), None


def build_projection_head(
    feature_dim: int, *, hidden_dim: int, embedding_dim: int
) -> nn.Sequential | nn.Linear:
    """The projection head, of one hidden layer; with `hidden_dim` 0 one linear layer."""
    if not hidden_dim:
        return nn.Linear(feature_dim, embedding_dim)
    return nn.Sequential(
        nn.Linear(feature_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, embedding_dim),
    )


class SwavModel(nn.Module):
    """Everything with weights.

    Args:
        backbone: Name of a torchvision classification model.
        small_stem: 3x3 stem without max-pool, for ResNets on pictures of about 32 px.
        hidden_dim: Width of the projection head's hidden layer; 0 makes it one linear layer.
        embedding_dim: Width D of the embeddings.
        num_prototypes: K.
    """

    def __init__(
        self,
        *,
        backbone: str,
        small_stem: bool,
        hidden_dim: int,
        embedding_dim: int,
        num_prototypes: int,
    ) -> None:
        super().__init__()
        self.backbone, self.feature_dim = build_backbone(backbone, small_stem=small_stem)
        self.projection_head = build_projection_head(
            self.feature_dim, hidden_dim=hidden_dim, embedding_dim=embedding_dim
        )
        # Without bias: a score is the cosine of an embedding and a prototype, nothing else.
        self.prototypes = nn.Linear(embedding_dim, num_prototypes, bias=False)
        self.normalize_prototypes()

    @torch.no_grad()
    def normalize_prototypes(self, *, unless: Bool[Tensor, ""] | None = None) -> None:
        """Put every prototype on the unit sphere, in place; not where `unless` holds."""
        weight = self.prototypes.weight
        unit = F.normalize(weight, dim=1)
        weight.copy_(unit if unless is None else weight.where(unless, unit))

    def forward(
        self, families: Sequence[Float[Tensor, "_ B 3 _ _"]]
    ) -> tuple[Float[Tensor, "V B F"], Float[Tensor, "V B D"], Float[Tensor, "V B K"]]:
        """Features, embeddings of unit norm and their cosines to the prototypes, for all V views.

        A family is [v, B, 3, s, s], of its own v and s; V is the sum of all v.
        One backbone pass per crop family (batch norm sees one resolution at a time), one head pass
        over all crops. Norms and scores are float32 whatever the autocast.
        """
        batch = families[0].shape[1]
        features = torch.cat([self.backbone(family.flatten(0, 1)) for family in families])
        projected = self.projection_head(features)
        with torch.autocast(device_type=features.device.type, enabled=False):
            embeddings = F.normalize(projected.float(), dim=1)
            scores = F.linear(embeddings, self.prototypes.weight.float())
        views = sum(family.shape[0] for family in families)  # a batch may be empty
        by_view = (views, batch)
        return (
            features.unflatten(0, by_view),
            embeddings.unflatten(0, by_view),
            scores.unflatten(0, by_view),
        )
