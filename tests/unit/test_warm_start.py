"""`--init-from`: what is taken of every kind of source, and what does not fit is named."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from encoder_example import DIM, K, checkpoint, learner_of, publish, replace_model, run_config

from online_swav.assemble import start_learner
from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.learning.kmeans import spherical_kmeans
from online_swav.learning.ranks import SINGLE_RANK
from online_swav.warm_start import require_fit, warm_start
from streams.testing import write_test_shards


def start(config):
    return start_learner(config, ranks=SINGLE_RANK, device=torch.device("cpu"))


def warm(config, tmp_path, source, **options):
    return dataclasses.replace(
        config, run=str(tmp_path / "new"), init_from=str(source), seed=5, **options
    )


@pytest.fixture
def config(tmp_path):
    return run_config(tmp_path / "run")


def same(one, two, *, where):
    one, two = one.model.state_dict(), two.model.state_dict()
    names = [name for name in one if name.startswith(where)]
    assert names
    # Prototypes are put on the unit sphere once more.
    return all(torch.allclose(one[name], two[name], rtol=0, atol=1e-6) for name in names)


@pytest.mark.parametrize("kind", ["run", "checkpoint", "published"])
def test_our_own_weights_are_taken_whole(config, tmp_path, kind):
    trained = learner_of(config)
    places = {"checkpoint": checkpoint(config, trained, step=9),
              "published": publish(config, trained, step=9), "run": config.run}  # fmt: skip
    learner, resumed = start(warm(config, tmp_path, places[kind]))
    assert resumed is None
    assert same(learner, trained, where="")
    assert (learner.step_count, learner.samples_seen) == (0, 0)


def test_the_official_layout_is_taken_whole(config, tmp_path):
    trained = learner_of(config)
    state = {name.removeprefix("backbone."): v for name, v in trained.model.state_dict().items()}
    file = tmp_path / "swav.pth.tar"
    # Its learning rate is one of NumPy's numbers, taken from the array of its schedule.
    optimizer = {"state": {}, "param_groups": [{"lr": np.linspace(0, 4.8, 9)[3], "params": [0]}]}
    torch.save({"state_dict": {f"module.{name}": v for name, v in state.items()}, "epoch": 3,
                "optimizer": optimizer}, file)  # fmt: skip
    learner, _ = start(warm(config, tmp_path, file))
    assert same(learner, trained, where="")
    torch.save({f"module.{name}": value for name, value in state.items()}, file)  # as released
    learner, _ = start(warm(config, tmp_path, file))
    assert same(learner, trained, where="")


def test_of_torchvisions_weights_the_trunk_is_taken(config, tmp_path):
    model = torchvision.models.shufflenet_v2_x0_5()
    file = tmp_path / "tv.pth"
    state = model.state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, file)
    learner, _ = start(warm(config, tmp_path, file))
    fresh, _ = start(dataclasses.replace(config, run=str(tmp_path / "fresh"), seed=5))
    own = learner.model.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)
    assert same(learner, fresh, where=("projection_head.", "prototypes."))


def test_prototypes_are_kept_or_drawn_anew(config, tmp_path):
    trained = learner_of(config)
    source = publish(config, trained, step=9)
    drawn, _ = start(warm(config, tmp_path, source, init_prototypes="random"))
    assert same(drawn, trained, where=("backbone.", "projection_head."))
    assert not same(drawn, trained, where="prototypes.")
    more = replace_model(config, num_prototypes=K + 5)
    drawn, _ = start(warm(more, tmp_path, source, init_prototypes="random"))
    assert len(drawn.model.prototypes.weight) == K + 5
    with pytest.raises(ConfigError, match=r"prototypes\.weight is \[12, 8\], and \[17, 8\] here.*"
                                          r"--init-prototypes random or kmeans"):  # fmt: skip
        start(warm(more, tmp_path, source))


def test_prototypes_begin_at_the_centres_of_the_first_images(config, tmp_path):
    source = publish(config, learner_of(config), step=9)
    write_test_shards(tmp_path / "in", shards=2, samples_per_shard=20)
    config = warm(config, tmp_path, source, init_prototypes="kmeans")
    config = dataclasses.replace(config, source=(f"s={tmp_path / 'in'}",))
    one, _ = start(config)
    two, _ = start(config)
    weight = one.model.prototypes.weight
    assert torch.equal(weight, two.model.prototypes.weight)
    assert torch.allclose(weight.norm(dim=1), torch.ones(K))
    random, _ = start(dataclasses.replace(config, init_prototypes="random"))
    assert not torch.equal(weight, random.model.prototypes.weight)
    assert one.model.training
    with pytest.raises(ConfigError, match="12 centres need at least as many images, and there "
                                          "are 5 "):  # fmt: skip
        start(dataclasses.replace(config, init_images=5))


def test_k_means_finds_the_groups():
    generator = torch.Generator().manual_seed(0)
    groups = torch.nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=1)
    points = groups.repeat(30, 1) + 0.02 * torch.randn(180, 16, generator=generator)
    centres = spherical_kmeans(points, 6, seed=1)
    assert (centres @ groups.T).max(dim=0).values.min() > 0.99
    with pytest.raises(ValueError, match="3 centres need at least as many embeddings, got 2"):
        spherical_kmeans(points[:2], 3, seed=0)


def test_a_run_with_a_checkpoint_goes_on_from_it(config, tmp_path):
    source = publish(config, learner_of(config), step=9)
    own = warm(config, tmp_path, source)
    checkpoint(own, learner_of(own, seed=3), step=2)
    learner, resumed = start(own)
    assert resumed.manifest.step == 2
    assert same(learner, learner_of(own, seed=3), where="")


def test_another_architecture_is_named_by_its_first_tensors(tmp_path):
    small = run_config(tmp_path / "run", backbone="resnet18")
    source = publish(small, learner_of(small), step=1)
    larger = run_config(tmp_path / "new", backbone="resnet34")
    first = (
        r"does not fit resnet34 \(its card says resnet18\): layer1\.2\.conv1\.weight is missing; "
    )
    with pytest.raises(ConfigError, match=first + r".* and \d+ more"):
        require_fit(dataclasses.replace(larger, init_from=str(source)))
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
    with pytest.raises(ConfigError, match=r"layer1\.2\.conv1\.weight is unknown here"):
        require_fit(dataclasses.replace(small, init_from=str(tmp_path / "r34.pth")))
    stem = replace_model(small, small_stem=True)
    first = (
        r"resnet18 with small_stem .*: conv1\.weight is \[64, 3, 7, 7\], and \[64, 3, 3, 3\] here"
    )
    with pytest.raises(ConfigError, match=first):
        require_fit(dataclasses.replace(stem, init_from=str(source)))
    wide = replace_model(small, hidden_dim=32, embedding_dim=DIM)
    with pytest.raises(ConfigError, match=r"projection_head\.0\.weight is \[16, 512\]"):
        require_fit(dataclasses.replace(wide, init_from=str(source)))


def test_files_that_are_none(config, tmp_path):
    file = tmp_path / "x.pth"
    for content, message in (
        ({"state_dict": 3}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"optimizer": {"lr": 1}}, "holds no state dict"),
    ):
        torch.save(content, file)
        with pytest.raises(ConfigError, match=message):
            require_fit(warm(config, tmp_path, file))
    torch.save(torch.nn.Linear(2, 2), file)  # a pickled module could run anything
    with pytest.raises(ConfigError, match=r"x\.pth is no file of weights"):
        require_fit(warm(config, tmp_path, file))
    broken = learner_of(config).model.backbone.state_dict()
    broken["conv1.0.weight"].fill_(float("nan"))
    torch.save(broken, file)
    with pytest.raises(ConfigError, match=r"conv1\.0\.weight holds values that are not finite"):
        require_fit(warm(config, tmp_path, file))


def test_prototypes_without_a_source_have_no_meaning():
    with pytest.raises(ValueError, match="init_prototypes kmeans has a meaning with init_from"):
        RunConfig(init_prototypes="kmeans")


class TwoRanks:
    """One rank of two, after the other: what rank 0 gives, rank 1 receives."""

    size = 2

    def __init__(self, rank, given):
        self.rank = rank
        self._given = given

    def sum(self, tensor):
        if self.rank == 0:
            self._given.append(tensor.clone())
            return tensor
        assert not tensor.any(), "only rank 0 adds something"
        return self._given.pop(0)

    max = sum

    def gather(self, tensor, dim):  # noqa: ARG002 - a Ranks has it
        return tensor


def test_ranks_begin_with_the_same_weights_although_the_run_publishes_meanwhile(config, tmp_path):
    publish(config, learner_of(config, seed=1), step=9)
    wanted = warm(config, tmp_path, config.run)
    given, learners = [], []
    for rank in (0, 1):
        learner = learner_of(wanted, seed=rank)
        warm_start(wanted, learner, ranks=TwoRanks(rank, given))
        learners.append(learner)
        publish(config, learner_of(config, seed=2), step=10)
    assert given == []
    assert same(learners[0], learners[1], where="")
    assert not same(learners[0], learner_of(config, seed=2), where="backbone.")
