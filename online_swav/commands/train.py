"""`train`, `demo` and `config`."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from online_swav.commands.doctor import EXIT_REFUSED
from online_swav.commands.options import merged_config
from online_swav.commands.prepare import prepare
from online_swav.commands.signals import stop_on_signals
from online_swav.config import Difference, RunConfig, to_yaml
from online_swav.errors import ConfigError
from online_swav.preflight.recipe import recipe_checks
from online_swav.run_lock import locked_run


def train(arguments: list[str]) -> int:
    """Train, or resume."""
    config, known = merged_config(arguments, "train")
    return _run(config, log_json=known.log_json, quiet=known.quiet, force=known.force,
                change=known.change)  # fmt: skip


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


def _note_change(run: Path, changed: Sequence[Difference]) -> None:
    """The run goes on with other options: into its story, and what they overrule is dropped."""
    from online_swav.events import Events
    from online_swav.remedies import load_remedies, save_remedies

    before = load_remedies(run)
    after = before.rethought([option.path for option in changed])
    if after != before:
        save_remedies(run, after)
    Events(run).add("changed", options=[str(option) for option in changed])


def _make_folder(run: Path) -> None:
    """Make the run folder.

    Raises:
        ConfigError: If it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {run}: {error.strerror}") from error


def _run(
    config: RunConfig, *, log_json: bool, quiet: bool, force: bool = False, change: bool = False
) -> int:
    prepared = prepare(config, change=change)
    config, run = prepared.config, Path(prepared.config.run)
    _make_folder(run)
    from online_swav.console import Logging
    from online_swav.preflight.check import force_hint, forced, refused
    from online_swav.preflight.checks import quick_checks
    from online_swav.preflight.telling import tell
    from online_swav.session import Session

    live = sys.stdout.isatty() and not log_json and not quiet
    log = Logging(json=log_json, file=str(run / "run.log"))
    with locked_run(run):
        checks = quick_checks(config, prepared.shards)
        if force:
            checks = forced(checks)
        if not refused(checks):
            _store(config)
        log.set_up()
        tell(run, checks)
        if prepared.changed and not refused(checks):
            _note_change(run, prepared.changed)
        if refused(checks):
            print("online-swav train: not started: correct what is refused above "
                  f"({force_hint(refused(checks))})", file=sys.stderr)  # fmt: skip
            return EXIT_REFUSED
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
    for check in recipe_checks(config):
        if check.level != "ok":
            print(f"# {check.level}: {check.name}: {check.text}", file=sys.stderr)
    return 0
