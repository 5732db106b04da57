"""Options of a run: defaults, preset or run folder, YAML, flags, in this order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from online_swav.config import RunConfig, load_yaml
from online_swav.errors import ConfigError
from online_swav.presets import PRESETS, preset


def merged_config(arguments: list[str], command: str) -> tuple[RunConfig, argparse.Namespace]:
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
    if command != "config":
        head.add_argument("--force", action="store_true")
        head.add_argument("--change", action="store_true")
    if command == "doctor":
        head.add_argument("--json", action="store_true")
    known, rest = head.parse_known_args(arguments)
    rest = _split_range(rest, "--learners", "--learners", "--max-learners")
    rest = _split_range(rest, "--ingest", "--ingest.actors", "--ingest.max-actors")
    rest = _join_repeated(rest, ("--source", "--probe-train", "--probe-test", "--sinks"))
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
        "--learners 1:4 and --ingest 1:4 are short for the fewest and the most. "
        "--log-json writes JSON lines; --quiet hides the live view; --force starts although a "
        "check refuses; --change resumes with other options than the run was started with."
    ) + (" --json prints the checks as JSON." if command == "doctor" else "")
    try:
        config = tyro.cli(
            RunConfig, prog=f"online-swav {command}", description=description, args=rest,
            default=base, config=(tyro.conf.ConsolidateSubcommandArgs,),
        )  # fmt: skip
    except SystemExit as error:
        raise SystemExit(2 if error.code else 0) from None
    return config, known


def _split_range(arguments: list[str], name: str, least: str, most: str) -> list[str]:
    """`--learners 1:4` means `--learners 1 --max-learners 4`, `--learners 2` that alone."""
    result: list[str] = []
    pending = False
    for argument in arguments:
        if argument == name and not pending:
            pending = True
            continue
        if not pending and not argument.startswith(f"{name}="):
            result.append(argument)
            continue
        low, colon, high = argument.removeprefix(f"{name}=").partition(":")
        result += [least, low, *([most, high] if colon else [])]
        pending = False
    return [*result, name] if pending else result


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


def run_folder(path: Path) -> Path:
    """The path, if a run lives there.

    Raises:
        ConfigError: If it has no config.
    """
    if not (path / "config.yaml").exists():
        raise ConfigError(f"{path} is no run folder: it has no config.yaml")
    return path
