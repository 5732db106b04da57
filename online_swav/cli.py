"""The command `online-swav`. Exit codes: 0 done or stopped in order, 1 our fault, 2 the user's.

Torch and Ray are imported by the commands that need them, so that help is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from online_swav.config import RunConfig, differences, load_yaml, to_yaml, warnings
from online_swav.errors import ConfigError, OnlineSwavError
from online_swav.presets import PRESETS, preset

logger = logging.getLogger("online_swav")

USAGE = """\
usage: online-swav COMMAND [options]      (online-swav COMMAND --help tells more)

  demo             train on an embedded stream of synthetic images, in a few minutes
  train            train on shards that keep arriving; the same command again resumes
  status           what a run is doing
  ledger           the books of a run: totals, verify, rebuild
  evaluate knn     weighted k-NN of a run's newest encoder, of random weights and of raw pixels
  config           print the merged configuration as YAML
  pack             a folder of images -> WebDataset shards
  synth            write synthetic labelled shards
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": _demo, "train": _train, "status": _status, "ledger": _ledger,
        "evaluate": _evaluate, "config": _config, "pack": _pack, "synth": _synth,
    }  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    name = arguments.pop(0)
    if name == "--version":
        from importlib.metadata import version

        print(version("online-swav"))
        return 0
    if name not in commands:
        import difflib

        close = difflib.get_close_matches(name, commands, n=1)
        hint = f" Perhaps you meant {close[0]}." if close else ""
        print(f"online-swav: there is no command {name!r}.{hint}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return commands[name](arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        from streams.errors import SourceError, StreamError

        if isinstance(error, ConfigError | SourceError):
            print(f"online-swav {name}: {error}", file=sys.stderr)
            return 2
        if isinstance(error, OnlineSwavError | StreamError):
            print(f"online-swav {name}: {error}", file=sys.stderr)
            return 1
        raise


# -- options ---------------------------------------------------------------------------------------


def _merged_config(arguments: list[str], command: str) -> tuple[RunConfig, argparse.Namespace]:
    """Defaults, preset or the run's own config, then YAML, then flags.

    Raises:
        ConfigError: If an option, a file or a value is wrong.
    """
    import tyro

    head = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    head.add_argument("--preset")
    head.add_argument("--config", type=Path)
    head.add_argument("--log-json", action="store_true")
    head.add_argument("--quiet", action="store_true")
    known, rest = head.parse_known_args(arguments)
    rest = _join_repeated(rest, ("--source", "--probe-train", "--probe-test"))
    run = _value_of(rest, "--run")
    if known.preset:
        base = preset(known.preset)
    elif run and (Path(run) / "config.yaml").exists():
        base = load_yaml(Path(run) / "config.yaml", RunConfig())
    else:
        base = RunConfig()
    if known.config:
        base = load_yaml(known.config, base)
    description = (
        "Options in order of strength: flags, then --config FILE.yaml, then --preset NAME "
        f"({', '.join(PRESETS)}) or the run folder's own config. "
        "--log-json writes JSON lines; --quiet hides the live view."
    )
    try:
        config = tyro.cli(
            RunConfig, prog=f"online-swav {command}", description=description, args=rest,
            default=base, config=(tyro.conf.ConsolidateSubcommandArgs,),
        )  # fmt: skip
    except SystemExit as error:
        raise SystemExit(2 if error.code else 0) from None
    return config, known


def _join_repeated(arguments: list[str], names: Sequence[str]) -> list[str]:
    """`--source A --source B` means `--source A B`; argparse would keep only B."""
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    current: str | None = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in names:
            current = name
            values.setdefault(name, []).extend([value] if equals else [])
        elif argument.startswith("--"):
            current = None
            rest.append(argument)
        elif current:
            values[current].append(argument)
        else:
            rest.append(argument)
    for name, items in values.items():
        rest += [name, *items]
    return rest


def _value_of(arguments: list[str], name: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def _config(arguments: list[str]) -> int:
    config, _ = _merged_config(arguments, "config")
    print(to_yaml(config), end="")
    for warning in warnings(config):
        print(f"# warning: {warning}", file=sys.stderr)
    return 0


# -- training --------------------------------------------------------------------------------------


def _train(arguments: list[str]) -> int:
    config, known = _merged_config(arguments, "train")
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
    try:
        run.mkdir(parents=True, exist_ok=True)
        stored.write_text(to_yaml(config))
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {run}: {error.strerror}") from error
    return config


def _absolute(patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(Path(pattern).absolute()) for pattern in patterns)


def _run(config: RunConfig, *, log_json: bool, quiet: bool) -> int:
    config = _prepare(config)
    from online_swav.console import Logging
    from online_swav.session import Session

    live = sys.stdout.isatty() and not log_json and not quiet
    log = Logging(json=log_json, file=str(Path(config.run) / "run.log"))
    log.set_up()
    for warning in warnings(config):
        logger.warning("%s", warning)
    stop = threading.Event()
    _stop_on_signals(stop)
    return Session(config, log=log, live=live, quiet=quiet, stop=stop).run()


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(_signum: int, _frame: object) -> None:
        if stop.is_set():  # a second signal means now
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def _demo(arguments: list[str]) -> int:
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


# -- looking at a run ------------------------------------------------------------------------------


def _run_folder(path: Path) -> Path:
    if not (path / "config.yaml").exists():
        raise ConfigError(f"{path} is no run folder: it has no config.yaml")
    return path


def _status(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="online-swav status", description="What a run is doing.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", action="store_true", help="the whole snapshot as JSON")
    options = parser.parse_args(arguments)
    path = _run_folder(options.run) / "status.json"
    if not path.exists():
        raise ConfigError(f"{options.run} has not reported yet: {path.name} is missing")
    from online_swav.console import live_panel, status_from_json

    text = path.read_text()
    if options.json:
        print(text)
        return 0
    from rich.console import Console

    age = time.time() - path.stat().st_mtime
    status = status_from_json(text)
    console = Console()
    console.print(live_panel(status, path.stat().st_mtime))
    if age > 30 and status.state not in ("stopped", "failed"):
        console.print(f"This snapshot is {age:.0f} s old: the run is no longer writing it.")
    return 0


def _ledger(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="online-swav ledger", description="The books of a run: every sample's fate."
    )
    parser.add_argument("action", nargs="?", choices=("totals", "verify", "rebuild"),
                        default="totals",
                        help="totals per state; verify the invariants (exit 1 names what is "
                        "broken); rebuild a lost book from the checkpoints")  # fmt: skip
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    from online_swav.books import print_totals, rebuild, totals, verify

    run = _run_folder(options.run)
    if options.action == "rebuild":
        print(rebuild(run))
        return 0
    counts = totals(run)
    if options.json:
        print(json.dumps({name: dataclasses.asdict(c) for name, c in counts.items()}, indent=1))
    else:
        print_totals(counts)
    if options.action == "verify":
        broken = verify(run)
        for line in broken:
            print(f"BROKEN  {line}")
        if broken:
            return 1
        print("verified: every invariant of the book holds")
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="online-swav evaluate", description="Judge a run's newest encoder."
    )
    parser.add_argument("protocol", choices=("knn",))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--train", nargs="+", help="labelled shards: the neighbours "
                        "(default: the run's probe_train)")  # fmt: skip
    parser.add_argument("--test", nargs="+", help="labelled shards to classify "
                        "(default: the run's probe_test)")  # fmt: skip
    parser.add_argument("-k", type=int, help="neighbours that vote (default: the run's probe.k)")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--limit", type=int, help="labelled images used at most, of each side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    config = load_yaml(_run_folder(options.run) / "config.yaml", RunConfig())
    over = {name: value for name, value in
            (("k", options.k), ("temperature", options.temperature), ("limit", options.limit))
            if value is not None}  # fmt: skip
    try:
        config = dataclasses.replace(
            config,
            run=str(options.run.resolve()),
            probe_train=tuple(options.train or config.probe_train),
            probe_test=tuple(options.test or config.probe_test),
            probe=dataclasses.replace(config.probe, **over),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not config.probe_train:
        raise ConfigError("--train SHARDS and --test SHARDS are needed: the run has no probe")
    from online_swav.judge import knn_report, print_knn

    report = knn_report(config)
    print(json.dumps(report)) if options.json else print_knn(report)
    return 0


# -- making shards ---------------------------------------------------------------------------------


def _pack(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="online-swav pack", description="Pack a folder of images into WebDataset shards. "
        "Subfolders are classes: their names, sorted, become the labels.",
    )  # fmt: skip
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--prefix", default="shard")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling")
    options = parser.parse_args(arguments)
    from streams.pack import pack_folder

    try:
        report = pack_folder(
            options.images,
            options.out,
            prefix=options.prefix,
            samples_per_shard=options.samples_per_shard,
            seed=options.seed,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print(report)
    return 0


def _synth(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="online-swav synth", description="Write synthetic labelled shards, over time."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, help="how many (default: endless)")
    parser.add_argument("--samples-per-shard", type=int, default=500)
    parser.add_argument("--every-s", type=float, default=0.0, help="seconds between two shards")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from streams.synthetic import produce

    stop = threading.Event()
    _stop_on_signals(stop)
    parent = os.getppid()
    try:
        written = produce(
            options.out, shards=options.shards, samples_per_shard=options.samples_per_shard,
            every_s=options.every_s, seed=options.seed, size=options.size,
            # An orphaned producer would fill the disk for ever.
            stop=lambda: stop.is_set() or os.getppid() != parent,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print(f"wrote {written} shards to {options.out}")
    return 0


def start_producer(out: Path, *, samples_per_shard: int, every_s: float, seed: int, size: int
                   ) -> subprocess.Popen[bytes]:  # fmt: skip
    """A process that keeps writing synthetic shards until it is terminated or orphaned."""
    return subprocess.Popen(
        [sys.executable, "-m", "online_swav", "synth", str(out), "--seed", str(seed),
         "--samples-per-shard", str(samples_per_shard), "--every-s", str(every_s),
         "--size", str(size)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
