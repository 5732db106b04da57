"""Recipes that are known to fail are named, with numbers; those that work are not."""

import dataclasses
import re
from pathlib import Path

import pytest

from online_swav.config import ProbeConfig, RunConfig
from online_swav.learning.config import LearnerConfig, RampConfig, ScheduleConfig
from online_swav.preflight.recipe import recipe_checks
from online_swav.presets import PRESETS, preset

HEALTHY = preset("imagenette-cpu")


def changed(config, **paths):
    """`learner__optim__lr=1.0` sets config.learner.optim.lr."""
    top = {name: value for name, value in paths.items() if "__" not in name}
    config = dataclasses.replace(config, **top)  # at once: some belong together
    for path in paths.keys() - top.keys():
        config = put(config, path.split("__"), paths[path])
    return config


def put(config, names, value):
    head, *rest = names
    part = put(getattr(config, head), rest, value) if rest else value
    return dataclasses.replace(config, **{head: part})


def found(config):
    return {check.name: check for check in recipe_checks(config) if check.level != "ok"}


@pytest.mark.parametrize("name", PRESETS)
def test_no_shipped_recipe_is_warned_of(name):
    assert found(preset(name)) == {}


@pytest.mark.parametrize(
    ("change", "name", "level", "text"),
    [
        ({"ingest__batch_size": 2}, "images_per_prototype", "refusal", r"\(2 \+ 0\) / 64 = 0.03"),
        ({"ingest__batch_size": 48}, "images_per_prototype", "warning",
         r"\(48 \+ 0\) / 64 = 0.75 is under 1.*--learner.queue.length"),
        ({"learner__codes__epsilon": RampConfig(start=0.3, end=0.05, steps=100)},
         "epsilon", "warning", "epsilon 0.3 is over 0.1.*codes.epsilon.start"),
        ({"learner__codes__epsilon": RampConfig(start=0.05, end=0.001)},
         "epsilon", "warning", "epsilon 0.001 is under 0.005"),
        ({"learner__codes__temperature": RampConfig(start=0.005, end=0.005)},
         "temperature", "warning", "temperature 0.005 is under epsilon 0.01"),
        ({"ingest__batch_size": 48, "crops": HEALTHY.crops[:1]}, "two_crops", "warning",
         "2 crops per image and 0.75 images per prototype"),
        ({"learner__optim__lr": 0.1}, "learning_rate", "warning",
         r"lr 0.1 .* over what adamw takes for 128 images per step: 0.0005\."),
        ({"learner__optim__lr": 1e-4}, "learning_rate", "warning", "under what adamw"),
        ({"learner__optim__kind": "lars"}, "learning_rate", "warning",
         r"lr 0.0003 .* under what lars takes for 128 images per step: 0.15 to 0.3\."),
        ({"learner__codes__freeze_prototypes_steps": 0, "learner__optim__lr": 5e-4},
         "prototype_freeze", "warning", "from step 0 at lr 0.0005.*freeze-prototypes-steps"),
        ({"learner__queue__length": 384}, "queue_start", "warning", "queue of 384 .3 batches."),
        ({"learner__schedule": ScheduleConfig(kind="cosine", total_steps=5000)},
         "schedule", "warning", "reaches 0 at step 5000.*--when-idle wait"),
        ({"ingest__batch_size": 1}, "batch_of_one", "warning", "--ingest.batch-size"),
        ({"metrics__host": "0.0.0.0"}, "metrics_host", "warning", "port 9464.*no password"),
        ({"probe_train": ("a.tar",), "probe_test": ("b.tar",), "probe": ProbeConfig(size=16)},
         "probe_size", "warning", "16 px"),
    ],
)  # fmt: skip
def test_a_landmine_is_named_with_its_numbers(change, name, level, text):
    checks = found(changed(HEALTHY, **change))
    assert checks[name].level == level
    assert re.search(text, checks[name].text), checks[name].text


@pytest.mark.parametrize(
    "change",
    [
        {"learner__codes__epsilon": RampConfig(start=9.0, end=0.05)},  # no steps: never used
        {"learner__codes__freeze_prototypes_steps": 0},  # lr 3e-4 is a small one here
        {"learner__queue__length": 256},
        {"crops": HEALTHY.crops[:1]},  # two crops are no harm with images enough
        {"learner__optim__lr": 2e-3},  # four times the rule, not more
        {"learner__optim__kind": "sgd", "learner__optim__lr": 0.15},
        {"learners": 2, "learner__model__num_prototypes": 256},  # the ranks' images count together
        {"metrics__host": "localhost"},
    ],
)
def test_what_is_right_is_not_warned_of(change):
    assert found(changed(HEALTHY, **change)) == {}


@pytest.mark.parametrize(
    ("change", "silent"),
    [
        ({"when_idle": "stop"}, True),
        ({"when_idle": "replay"}, False),
        ({"stop_after_steps": 5000}, True),
        ({"stop_after_steps": 5001}, False),
        ({"stop_after_samples": 5000 * 128}, True),
        ({"stop_after_samples": 6000 * 128}, False),
    ],
)
def test_a_rate_that_ends_at_zero_is_fine_where_the_run_ends_too(change, silent):
    schedule = ScheduleConfig(kind="cosine", total_steps=5000)
    checks = found(changed(HEALTHY, learner__schedule=schedule, **change))
    assert ("schedule" not in checks) == silent


def test_crops_that_the_learner_refuses_on_a_cpu_are_refused_before():
    tiny = dataclasses.replace(HEALTHY.crops[1], size=16)
    config = changed(HEALTHY, crops=(HEALTHY.crops[0], tiny))
    assert found(config)["small_crops"].level == "warning"
    on_cpu = found(changed(config, device="cpu"))["small_crops"]
    assert on_cpu.level == "refusal"
    assert "17 px or more" in on_cpu.text
    for harmless in (
        {"device": "cuda"}, {"learner__autocast": "off"}, {"learner__model__small_stem": True},
        {"learner__model__backbone": "convnext_tiny"},
        {"crops": (HEALTHY.crops[0], dataclasses.replace(tiny, size=17))},
    ):  # fmt: skip
        assert "small_crops" not in found(changed(config, **{"device": "cpu"} | harmless))


@pytest.mark.parametrize(("small_stem", "smallest"), [(False, 17), (True, 5)])
def test_the_limit_of_small_crops_is_that_of_the_network(small_stem, smallest):
    """On one pixel before a strided convolution `learning.precision` refuses."""
    import torch

    from online_swav.learning.model import build_backbone

    with torch.device("meta"):
        network, _ = build_backbone("resnet18", small_stem=small_stem)
        sides = []
        for module in network.modules():
            if (
                isinstance(module, torch.nn.Conv2d)
                and max(module.stride) > 1 < module.kernel_size[0]
            ):
                module.register_forward_pre_hook(
                    lambda _, images: sides.append(images[0].shape[-1])
                )
        network(torch.zeros(2, 3, smallest, smallest))
        assert min(sides) == 2
        network(torch.zeros(2, 3, smallest - 1, smallest - 1))
        assert min(sides) == 1


def test_the_defaults_alone_make_a_recipe():
    assert found(RunConfig()) == {}


def test_a_small_batch_alone_is_refused_with_the_numbers():
    (check,) = found(RunConfig(learner=LearnerConfig())).values()
    assert check.level == "refusal"
    assert "(64 + 0) / 3000 = 0.02" in check.text


def test_every_option_that_is_advised_exists():
    """A remedy names an option that the command line knows."""
    import online_swav.preflight
    from online_swav.config import to_dict

    def options(plain, prefix=""):
        for name, value in plain.items():
            yield f"{prefix}{name}".replace("_", "-")
            if isinstance(value, dict):
                yield from options(value, f"{prefix}{name}.")

    known = {*options(to_dict(RunConfig())), "ingest", "force", "head", "generate"}
    folder = Path(online_swav.preflight.__file__).parent
    named = set()
    for path in folder.glob("*.py"):
        joined = re.sub(r'"\s*\n\s*f?"', "", path.read_text())  # strings over several lines
        named |= {name.rstrip(".") for name in re.findall(r"--([a-z][a-z.-]+)", joined)}
    assert len(named) > 12
    assert named - known == set()
