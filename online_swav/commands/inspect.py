"""`evaluate`: judging the encoder of a run from outside."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from online_swav.commands.options import run_folder
from online_swav.config import RunConfig, load_yaml
from online_swav.errors import ConfigError


def evaluate(arguments: list[str]) -> int:
    """Judge the newest encoder of a run."""
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
    config = load_yaml(run_folder(options.run) / "config.yaml", RunConfig())
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
