"""`--init-from`: a new run begins with trained weights instead of random ones.

From a run, a published encoder or a checkpoint of ours, from torchvision's weights, or from a
checkpoint of facebookresearch/swav (`weights.py`). The trunk has to fit. Projection head and
prototypes are taken where the source has them; prototypes may be drawn anew instead, or be the
centres of the first images' embeddings. Optimizer, queue, schedule and books begin as in any new
run; a run that has a checkpoint goes on from that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.first_images import first_squares
from online_swav.learning.kmeans import spherical_kmeans
from online_swav.learning.learner import Learner
from online_swav.learning.model import SwavModel
from online_swav.learning.ranks import Ranks
from online_swav.preprocessing import Preprocessing
from online_swav.weights import Weights, fit, misfits_in_words, read_weights

logger = logging.getLogger(__name__)

_PROTOTYPES = "prototypes.weight"
BATCH = 128


def warm_start(config: RunConfig, learner: Learner, *, ranks: Ranks) -> None:
    """Put the weights of `config.init_from` into a learner that has made no step.

    Raises:
        ConfigError: If they cannot be read, or do not fit; the first tensors that do not are named.
    """
    if config.init_from is None:
        return
    weights = read_weights(config.init_from)
    model = learner.model
    state = fitting_state(config, weights, model.state_dict())
    # Rank 0's on every rank: a run that is read may publish a newer one between two readings.
    model.load_state_dict({
        name: ranks.sum(value.to(learner.device) if ranks.rank == 0
                        else torch.zeros_like(value, device=learner.device))
        for name, value in state.items()
    })  # fmt: skip
    if _drawn(config):
        prototypes = "random"
    elif _PROTOTYPES in weights.head:
        prototypes = "of the source"
        model.normalize_prototypes()  # the official code saves them as its last step left them
    else:
        prototypes = "random: the source has none"
    if config.init_prototypes == "kmeans":
        prototypes = f"k-means of the first {config.init_images} images"
        model.load_state_dict(
            model.state_dict() | {_PROTOTYPES: _shared_centres(config, learner, ranks=ranks)}
        )
    logger.info(
        "warm_start from=%s projection_head=%s prototypes=%r", weights.place,
        any(name.startswith("projection_head.") for name in weights.head), prototypes,
    )  # fmt: skip


def require_fit(config: RunConfig) -> None:
    """See that `config.init_from` fits the run, before anything starts.

    Raises:
        ConfigError: As `warm_start`.
    """
    if config.init_from is None:
        return
    model = config.learner.model
    try:
        with torch.random.fork_rng(devices=[]):
            network = SwavModel(
                backbone=model.backbone, small_stem=model.small_stem, hidden_dim=model.hidden_dim,
                embedding_dim=model.embedding_dim, num_prototypes=model.num_prototypes,
            )  # fmt: skip
    except ValueError as error:
        raise ConfigError(str(error)) from error
    fitting_state(config, read_weights(config.init_from), network.state_dict())


def fitting_state(
    config: RunConfig, weights: Weights, own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The model's state with everything that is taken from `weights`.

    Raises:
        ConfigError: If a part of it does not fit.
    """
    prefix, model = "backbone.", config.learner.model
    trunk = {n.removeprefix(prefix): v for n, v in own.items() if n.startswith(prefix)}
    taken, misfits = fit(trunk, weights.backbone)
    if misfits:
        known = (weights.card or {}).get("backbone")
        stem = (weights.card or {}).get("small_stem")
        what = f" (its card says {known}{', small_stem' if stem else ''})" if known else ""
        wanted = f"{model.backbone}{' with small_stem' if model.small_stem else ''}"
        raise ConfigError(
            f"--init-from {weights.place} does not fit {wanted}{what}: "
            f"{misfits_in_words(misfits)}. Set --learner.model.backbone and "
            "--learner.model.small-stem as it was trained, or take other weights."
        )
    result = dict(own) | {f"{prefix}{name}": value for name, value in taken.items()}
    head = {n: v for n, v in weights.head.items() if n != _PROTOTYPES or not _drawn(config)}
    if not head:
        return result
    wanted_head = {n: v for n, v in own.items() if not n.startswith(prefix)}
    if _PROTOTYPES not in head:
        del wanted_head[_PROTOTYPES]
    taken, misfits = fit(wanted_head, head)
    if misfits:
        raise ConfigError(
            f"--init-from {weights.place}: its projection head and prototypes are of other sizes "
            f"than this run's: {misfits_in_words(misfits)}. Set --learner.model.hidden-dim, "
            ".embedding-dim and .num-prototypes as it was trained; --init-prototypes random or "
            "kmeans takes any number of prototypes."
        )
    return result | taken


def _drawn(config: RunConfig) -> bool:
    return config.init_prototypes != "keep"


def _shared_centres(config: RunConfig, learner: Learner, *, ranks: Ranks) -> Tensor:
    """Centres of rank 0's: others may not see the sources, and must have the very same."""
    wanted = len(learner.model.prototypes.weight)
    embeddings = torch.empty(0, config.learner.model.embedding_dim)
    if ranks.rank == 0:
        embeddings = _first_embeddings(config, learner)
    count = int(ranks.sum(torch.tensor(float(len(embeddings)), device=learner.device)))
    if count < wanted:  # on every rank: none may wait for another that has given up
        raise ConfigError(
            f"--init-prototypes kmeans: {wanted} centres need at least as many images, and there "
            f"are {count} (--init-images {config.init_images}, and what the sources hold by now); "
            "use keep or random"
        )
    centres = torch.zeros_like(learner.model.prototypes.weight, requires_grad=False)
    if ranks.rank == 0:
        centres += spherical_kmeans(embeddings, wanted, seed=config.seed).to(centres)
    return ranks.sum(centres)


@torch.no_grad()
def _first_embeddings(config: RunConfig, learner: Learner) -> Tensor:
    """Float [n, D]: of the sources' first images, of unit norm, on the CPU."""
    model, augment = learner.model, config.learner.augment
    prepare = Preprocessing(size=config.crops[0].size, mean=augment.mean, std=augment.std)
    parts = [torch.empty(0, config.learner.model.embedding_dim)]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for batch in first_squares(config, prepare, limit=config.init_images, batch=BATCH):
            features = model.backbone(batch.to(learner.device))
            parts.append(F.normalize(model.projection_head(features).float(), dim=1).cpu())
    finally:
        for module in training:
            module.training = True
    return torch.cat(parts)
