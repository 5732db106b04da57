"""RunConfig: every option of a run on one page; presets, YAML and flags become one value.

Order: defaults or the preset, then the YAML file, then the flags. Imports neither torch nor Ray, so
that help is quick. Options of a room stand beside the code that reads them
(`streams.config`, `online_swav.learning.config`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from online_swav.errors import ConfigError
from online_swav.learning.config import LearnerConfig, QueueConfig
from streams.config import BudgetConfig, CropFamily, IngestConfig, SourceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When the weights and the book are committed together."""

    every_steps: int = 500
    """Steps between two checkpoints; a crash repeats at most these."""
    every_s: float = 600.0
    """Seconds between two checkpoints, whichever comes first."""
    keep: int = 3
    """Newest checkpoints that stay on disk, and published encoders; the newest healthy one too."""

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.keep < 1:
            raise ValueError(
                f"every_steps and keep must be at least 1, got {self.every_steps} and {self.keep}"
            )
        if self.every_s <= 0:
            raise ValueError(f"every_s must be positive, got {self.every_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """The labelled k-NN probe (needs probe_train and probe_test)."""

    every_steps: int = 500
    """Steps between two probes; step 0 and the last step are always probed."""
    size: int = 64
    """Side of the central crop that the frozen backbone sees, in pixels."""
    limit: int = 2000
    """Labelled images used at most, of the training and of the held-out shards each."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Votes weigh exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "size", "limit", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActConfig:
    """What the run does by itself when it is unwell (`remedies.py`)."""

    enabled: bool = True
    """False: findings are only told, a collapsed run trains on, non-finite steps end it."""
    max_rollbacks: int = 3
    """Rollbacks in a row before the run gives up with exit code 3."""
    lr_factor: float = 0.5
    """The rate is multiplied by it at a rollback, and as the last step of the ladder."""
    epsilon_factor: float = 0.6
    """The codes' epsilon is multiplied by it as the ladder's second step."""
    refreeze_steps: int = 200
    """Steps for which the prototypes are frozen again, as the ladder's first step."""
    patience_steps: int = 300
    """Steps between two steps of the ladder."""
    when_given_up: Literal["exit", "hold"] = "exit"
    """hold: train no more, but serve metrics until stopped, so that the alert does not resolve."""

    def __post_init__(self) -> None:
        if self.max_rollbacks < 0:
            raise ValueError(f"max_rollbacks must not be negative, got {self.max_rollbacks}")
        for name in ("lr_factor", "epsilon_factor"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        for name in ("refreeze_steps", "patience_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """When the stream counts as behind."""

    max_lag_s: float = 3600.0
    """Seconds by which a source's newest shard may be ahead of its oldest unread one."""
    max_data_age_s: float = 86_400.0
    """Seconds between a shard's arrival and its training before that is a finding."""

    def __post_init__(self) -> None:
        for name in ("max_lag_s", "max_data_age_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where Prometheus finds the run."""

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback anyone who reaches it can read the run's numbers."""
    port: int = 9464
    """Port of /metrics and /healthz; 0 takes a free one."""
    linger_s: float = 45.0
    """Seconds for which a run that failed or gave up still answers, so that Prometheus sees why."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie in 0..65535, got {self.port}")
        if self.linger_s < 0:
            raise ValueError(f"linger_s must not be negative, got {self.linger_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticConfig:
    """When ingest actors are added and removed, between ingest.actors and ingest.max_actors."""

    add_above_wait: float = 0.15
    """Add one while the learner waits for images for more than this share of its time."""
    remove_above_backlog: float = 0.95
    """Remove one while more than this share of the learner's requests is answered in advance."""
    cooldown_s: float = 30.0
    """Seconds between two changes; longer for removals that had to be taken back."""

    def __post_init__(self) -> None:
        for name in ("add_above_wait", "remove_above_backlog"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.cooldown_s <= 0:
            raise ValueError(f"cooldown_s must be positive, got {self.cooldown_s}")


OFFICIAL_CROPS = (
    CropFamily(size=224, num=2, scale=(0.14, 1.0)),
    CropFamily(size=96, num=6, scale=(0.05, 0.14)),
)


def _small_batch() -> LearnerConfig:
    """One rank's batch of 64 cannot share K = 3000 prototypes: a queue, as the official 256."""
    return LearnerConfig(queue=QueueConfig(length=3840, start_step=2000))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything about a run."""

    run: str = ""
    """Folder of the run: checkpoints, books, quarantine. The same folder again resumes."""
    source: tuple[str, ...] = ()
    """Where shards appear: a folder (searched to any depth), a glob, a tar; NAME=PLACE names it."""
    when_idle: Literal["wait", "replay", "stop"] = "wait"
    """Once every shard is trained: wait for more, replay them (counted apart), or stop."""
    stop_after_steps: int | None = None
    """Stop at this step."""
    stop_after_samples: int | None = None
    """Stop once this many images were trained, replays included."""
    probe_train: tuple[str, ...] = ()
    """Labelled shards whose features are the k-NN probe's neighbours."""
    probe_test: tuple[str, ...] = ()
    """Labelled shards that the k-NN probe classifies."""
    seed: int = 0
    """Of weights, crops, colours and shuffling."""
    init_from: str | None = None
    """Start of a new run: weights of a run, checkpoint or file (torchvision's, official SwAV's)."""
    init_prototypes: Literal["keep", "random", "kmeans"] = "keep"
    """With init_from: its prototypes, random ones, or centres of the first images' embeddings."""
    init_images: int = 10_000
    """With init_prototypes kmeans: how many of the sources' first images are looked at."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learners run; auto takes a GPU when there is one."""
    learners: int = 1
    """Learner ranks; with `max_learners` the fewest."""
    max_learners: int | None = None
    """Most learner ranks: Ray Train takes what the cluster has; None keeps `learners`."""
    threads: int | None = None
    """CPU threads of one learner; None shares the machine's cores among the learners."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of network and colour operations; auto compiles on a GPU."""
    report_every_s: float = 1.0
    """Seconds between two reports of the learner; the device is not waited for in between."""
    crops: tuple[CropFamily, ...] = OFFICIAL_CROPS
    """Crop families, largest first."""
    discovery: SourceConfig = field(default_factory=SourceConfig)
    """Watching the sources."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """When a source that delivers rubbish is paused."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    """From shards to batches."""
    learner: LearnerConfig = field(default_factory=_small_batch)
    """The method."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled probe."""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """Prometheus endpoint."""
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    """Number of ingest actors."""
    act: ActConfig = field(default_factory=ActConfig)
    """What the run does by itself when it is unwell."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """When the stream counts as behind."""
    sinks: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where the curves of history.jsonl go too; each needs the extra of its name (`sinks.py`)."""
    observer: str | None = None
    """MODULE:CLASS of your own, called at the named points of the loop (`observer.py`)."""

    def __post_init__(self) -> None:
        if not self.crops or self.crops[0].num < 2:
            raise ValueError("crops: the first family needs at least 2 crops, for the two codes")
        if self.learners < 1:
            raise ValueError(f"learners must be at least 1, got {self.learners}")
        if self.max_learners is not None and self.max_learners < self.learners:
            raise ValueError(
                f"max_learners must be at least learners, got {self.max_learners} and "
                f"{self.learners}"
            )
        if self.report_every_s <= 0:
            raise ValueError(f"report_every_s must be positive, got {self.report_every_s}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if len(set(self.sinks)) < len(self.sinks):
            raise ValueError(f"sinks names one twice: {', '.join(self.sinks)}")
        for name in ("stop_after_steps", "stop_after_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.init_images < 1:
            raise ValueError(f"init_images must be at least 1, got {self.init_images}")
        if self.init_prototypes != "keep" and self.init_from is None:
            raise ValueError(f"init_prototypes {self.init_prototypes} has a meaning with init_from")
        if bool(self.probe_train) != bool(self.probe_test):
            raise ValueError("probe_train and probe_test belong together: give both or none")

    @property
    def global_batch_size(self) -> int:
        """Images per step over all ranks."""
        return self.ingest.batch_size * self.learners


_UNCHANGEABLE = (
    "seed", "learner.model", "learner.queue.length", "learner.optim.kind"
)  # fmt: skip
"""Options that a checkpoint cannot follow: its tensors and its order are made for them."""


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain nested values, as YAML and JSON write them."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, in the order of the fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=100)


def digest(config: RunConfig) -> str:
    """Twelve hexadecimal digits naming the options that decide the weights."""
    text = json.dumps(_deciding(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _deciding(config: RunConfig) -> dict[str, Any]:
    """The options that decide the weights."""
    plain = to_dict(config)
    learner = {name: value for name, value in plain["learner"].items() if name != "health"}
    return {"seed": plain["seed"], "crops": plain["crops"], "learner": learner}


def load_yaml(path: Path, base: RunConfig) -> RunConfig:
    """`base` with the options of a YAML file on top.

    Raises:
        ConfigError: If the file is missing, is no YAML mapping, or has an unknown or bad option;
            every mistake is named by its path in the file.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if raw is None:
        return base
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping of options, not {type(raw).__name__}")
    plain = to_dict(base)
    mistakes = list(_unknown(raw, plain, ""))
    if mistakes:
        raise ConfigError(f"{path}: " + "; ".join(mistakes))
    try:
        return TypeAdapter(RunConfig).validate_python(_merge(plain, raw))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'config'}: "
            f"{item['msg'].removeprefix('Value error, ')} (got {_short(item['input'])})"
            for item in error.errors()
        ]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _merge(base[name], value) if both else value
    return merged


def _unknown(raw: dict[Any, Any], known: dict[str, Any], path: str) -> Iterator[str]:
    for name, value in raw.items():
        place = f"{path}{name}"
        if name not in known:
            everywhere = list(_paths(known, path))
            close = [place for place in everywhere if place.rsplit(".", 1)[-1] == name]
            close += difflib.get_close_matches(place, everywhere, n=1, cutoff=0.6)
            hint = f", perhaps you meant {close[0]}" if close else ""
            yield f"unknown option {place}{hint}"
        elif isinstance(value, dict) and isinstance(known[name], dict):
            yield from _unknown(value, known[name], f"{place}.")


def _paths(plain: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in plain.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")


@dataclass(frozen=True, slots=True)
class Difference:
    """An option that decides the weights, and is another one than the run's."""

    path: str
    old: Any
    new: Any

    @property
    def unchangeable(self) -> bool:
        """Whether no checkpoint of the run could go on with the new value."""
        return any(self.path == p or self.path.startswith(f"{p}.") for p in _UNCHANGEABLE)

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}"


def differences(stored: RunConfig, asked: RunConfig) -> list[Difference]:
    """Options that decide the weights and differ, by path."""
    found: list[Difference] = []

    def compare(path: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for name in old.keys() | new.keys():
                compare(f"{path}.{name}" if path else name, old.get(name), new.get(name))
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for index, pair in enumerate(zip(old, new, strict=True)):
                compare(f"{path}.{index}", *pair)
        elif old != new:
            found.append(Difference(path, old, new))

    compare("", _deciding(stored), _deciding(asked))
    return sorted(found, key=lambda difference: difference.path)
