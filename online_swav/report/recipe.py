"""What was used: options, versions, checkpoint."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from online_swav.config import RunConfig, digest, to_yaml
from online_swav.report.facts import Facts
from online_swav.wording import adjustments, amount

PACKAGES = ("online-swav", "torch", "torchvision", "numpy", "ray", "opencv-python-headless")


def recipe(facts: Facts) -> list[tuple[str, str]]:
    """Names and values, the ones that decide the weights first."""
    return [*_method(facts.config), *_run(facts), *_versions()]


def whole_config(facts: Facts) -> str:
    """Every option, as YAML."""
    return to_yaml(facts.config)


def _method(config: RunConfig) -> Iterator[tuple[str, str]]:
    learner = config.learner
    model, codes, optim = learner.model, learner.codes, learner.optim
    yield "Config digest", digest(config)
    yield "Backbone", model.backbone + ", small stem" * model.small_stem
    head = f"hidden {model.hidden_dim}" if model.hidden_dim else "linear"
    yield "Head", f"{head}, embeddings of {model.embedding_dim} dimensions"
    frozen = f"frozen for {codes.freeze_prototypes_steps:,} steps"
    yield "Prototypes", f"{model.num_prototypes:,}, {frozen}"
    epsilon, temperature = codes.epsilon, codes.temperature
    ramp = f"{epsilon.start:g}" + f" to {epsilon.end:g}" * (epsilon.start != epsilon.end)
    yield "Codes", f"epsilon {ramp}, {codes.iterations} iterations, temperature {temperature.end:g}"
    yield (
        "Crops",
        "; ".join(
            f"{f.num} of {f.size} px ({f.scale[0]:g} to {f.scale[1]:g} of the area)"
            for f in config.crops
        ),
    )
    batch = f"{config.ingest.batch_size:,} images x {amount(config.learners, 'rank')}"
    yield "Batch", batch + (f", queue of {learner.queue.length:,}" if learner.queue.length else "")
    yield "Optimizer", f"{optim.kind}, rate {optim.lr:g}, weight decay {optim.weight_decay:g}"
    schedule = learner.schedule
    yield "Schedule", f"{schedule.kind}, warm-up of {schedule.warmup_steps:,} steps"
    yield "Precision", learner.autocast
    yield "Seed", str(config.seed)


def _run(facts: Facts) -> Iterator[tuple[str, str]]:
    config, newest = facts.config, facts.newest
    if changed := adjustments(facts.adjustments):
        yield "Changed by the run itself", ", ".join(changed)
    yield "Sources", "; ".join(config.source) or "none"
    yield "When idle", config.when_idle
    if newest is not None:
        yield "Checkpoint", f"step {newest.manifest.step:,}, verdict {newest.manifest.verdict}"
    yield "Run folder", str(facts.run)


def _versions() -> Iterator[tuple[str, str]]:
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    yield "Versions", ", ".join(found) + " (of the machine that wrote this report)"
