"""What `train` and `doctor` look at first: the user's own mistakes, each with exit code 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from online_swav.config import Difference, RunConfig, differences, load_yaml
from online_swav.errors import ConfigError
from online_swav.observer import find_observer
from online_swav.sinks import require_libraries


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that could start."""

    config: RunConfig
    """The same with absolute places."""
    shards: dict[str, list[str]]
    """Tars that are there, by source."""
    changed: tuple[Difference, ...]
    """What the run was started with otherwise, and goes on with."""


def prepare(config: RunConfig, *, change: bool) -> Prepared:
    """Check what can be checked before anything starts. Writes nothing.

    Args:
        config: What was asked for.
        change: Whether the run may go on with other options than it was started with.

    Raises:
        ConfigError: If a folder is missing or unusable, a library is not installed, or the run is
            of another config.
    """
    from streams.sources import DirectorySource, describe_missing, parse_sources

    if not config.run:
        raise ConfigError("--run DIR is needed: the folder for checkpoints and books")
    if not config.source:
        raise ConfigError("--source PLACE is needed: a folder, a glob or a tar with shards")
    try:
        sources = parse_sources(list(config.source))
    except ValueError as error:
        raise ConfigError(f"--source: {error}") from error
    for pattern in sources.values():
        missing = describe_missing(pattern)
        if missing:
            raise ConfigError(f"--source: {missing}")
    shards = {
        name: DirectorySource(name, pattern, settle_s=0).candidates()
        for name, pattern in sources.items()
    }
    if not any(shards.values()) and config.when_idle != "wait":
        looked = " and ".join(looked_for(pattern) for pattern in sources.values())
        raise ConfigError(
            f"no shard found: looked for {looked}. With --when-idle {config.when_idle} there is "
            "nothing to train on; use --when-idle wait to wait for the first one."
        )
    run = Path(config.run).resolve()
    stored = run / "config.yaml"
    changed = differences(load_yaml(stored, RunConfig()), config) if stored.exists() else []
    _require_allowed(run, changed, change=change)
    absolute = tuple(f"{name}={Path(pattern).absolute()}" for name, pattern in sources.items())
    config = dataclasses.replace(
        config,
        run=str(run),
        source=absolute,
        probe_train=_absolute(config.probe_train),
        probe_test=_absolute(config.probe_test),
        init_from=str(Path(config.init_from).absolute()) if config.init_from else None,
    )
    if config.observer is not None:
        find_observer(config.observer)
    require_libraries(config.sinks)
    if config.init_from is not None and not (run / "checkpoints" / "latest").exists():
        from online_swav.warm_start import require_fit

        require_fit(config)
    return Prepared(config, shards, tuple(changed))


def _require_allowed(run: Path, changed: Sequence[Difference], *, change: bool) -> None:
    refused = [d for d in changed if d.unchangeable] if change else changed
    if not refused:
        return
    advice = "Use those (leave --preset and --config away to take them from the run)"
    if any(difference.unchangeable for difference in refused):
        said = "that its checkpoints cannot leave" if change else "that decide the weights"
        advice += ", or another --run folder."
    else:
        said = "that decide the weights"
        advice += ", add --change to go on from its newest checkpoint with the new ones, or take "
        advice += "another --run folder."
    listed = "\n  ".join(map(str, refused))
    raise ConfigError(f"{run} was started with other options {said}:\n  {listed}\n{advice}")


def looked_for(pattern: str) -> str:
    """What a source's pattern means, in words."""
    return f"*.tar in {pattern}" if Path(pattern).is_dir() else pattern


def _absolute(patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(Path(pattern).absolute()) for pattern in patterns)
