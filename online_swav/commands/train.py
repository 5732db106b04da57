"""`train`, `demo` and `config`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from online_swav.commands.options import merged_config
from online_swav.commands.signals import stop_on_signals
from online_swav.config import RunConfig, differences, load_yaml, to_yaml, warnings
from online_swav.errors import ConfigError
from online_swav.observer import find_observer
from online_swav.run_lock import locked_run

logger = logging.getLogger(__name__)


def train(arguments: list[str]) -> int:
    """Train, or resume."""
    config, known = merged_config(arguments, "train")
    return _run(config, log_json=known.log_json, quiet=known.quiet)


def _prepare(config: RunConfig) -> RunConfig:
    """Check what can be checked before anything starts, and make the run folder.

    Raises:
        ConfigError: If a folder is missing or unusable, or the run is of another config.
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
    empty = [
        pattern
        for name, pattern in sources.items()
        if not DirectorySource(name, pattern, settle_s=0).candidates()
    ]
    looked = " and ".join(f"*.tar in {p}" if Path(p).is_dir() else p for p in empty)
    if len(empty) == len(sources) and config.when_idle != "wait":
        raise ConfigError(
            f"no shard found: looked for {looked}. With --when-idle {config.when_idle} there is "
            "nothing to train on; use --when-idle wait to wait for the first one."
        )
    if empty:
        print(f"No shard yet: waiting for {looked}", file=sys.stderr)
    run = Path(config.run).resolve()
    stored = run / "config.yaml"
    if stored.exists():
        differing = differences(load_yaml(stored, RunConfig()), config)
        if differing:
            raise ConfigError(
                f"{run} was started with other options that decide the weights:\n  "
                + "\n  ".join(differing)
                + "\nUse those (leave --preset and --config away to take them from the run), or "
                "another --run folder."
            )
    absolute = tuple(f"{name}={Path(pattern).absolute()}" for name, pattern in sources.items())
    config = dataclasses.replace(
        config,
        run=str(run),
        source=absolute,
        probe_train=_absolute(config.probe_train),
        probe_test=_absolute(config.probe_test),
    )
    if config.observer is not None:
        find_observer(config.observer)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {run}: {error.strerror}") from error
    return config


def _store(config: RunConfig) -> None:
    """Leave the config in the run folder, for the next start and for other commands.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    run = Path(config.run)
    staging = run / ".config.yaml"
    try:
        staging.write_text(to_yaml(config))  # a full disk must not empty the one that is there
        staging.replace(run / "config.yaml")
    except OSError as error:
        raise ConfigError(
            f"cannot write {run / 'config.yaml'}: {error.strerror}; make room or fix the "
            "permissions, then start the same command again"
        ) from error


def _absolute(patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(Path(pattern).absolute()) for pattern in patterns)


def _run(config: RunConfig, *, log_json: bool, quiet: bool) -> int:
    config = _prepare(config)
    from online_swav.console import Logging
    from online_swav.session import Session

    live = sys.stdout.isatty() and not log_json and not quiet
    log = Logging(json=log_json, file=str(Path(config.run) / "run.log"))
    with locked_run(Path(config.run)):
        _store(config)
        log.set_up()
        for warning in warnings(config):
            logger.warning("%s", warning)
        stop = threading.Event()
        stop_on_signals(stop)
        return Session(config, log=log, live=live, quiet=quiet, stop=stop).run()


def demo(arguments: list[str]) -> int:
    """Train on an embedded stream."""
    parser = argparse.ArgumentParser(
        prog="online-swav demo",
        description="A producer keeps writing shards of synthetic labelled images into a folder "
        "while the system trains on them, without looking at the labels. Stops by itself.",
    )
    parser.add_argument("--run", type=Path, help="run folder (default: runs/demo-TIME)")
    parser.add_argument("--samples", type=int, default=16_000, help="images to train on")
    parser.add_argument("--port", type=int, default=9464, help="metrics port; 0 takes a free one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from online_swav.demo import run_demo

    return run_demo(options.run, samples=options.samples, port=options.port, seed=options.seed,
                    train=lambda config: _run(config, log_json=False, quiet=False))  # fmt: skip


def config(arguments: list[str]) -> int:
    """Print the merged configuration."""
    config, _ = merged_config(arguments, "config")
    print(to_yaml(config), end="")
    for warning in warnings(config):
        print(f"# warning: {warning}", file=sys.stderr)
    return 0
