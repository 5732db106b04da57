"""What the protocols of `evaluate` share: the data, the trunks, the table.

A protocol is a `Protocol` in a module of its own (`evaluate_knn.py`), listed in `evaluate.py`. Its
`add_options` calls `protocol_options.add_shared_options` and adds its own; its `run` calls
`lay_out` and `judge`. Torch is imported only when a protocol runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_swav.commands.options import run_folder
from online_swav.config import RunConfig, load_yaml
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from online_swav.evaluation.data import LabelledSet
    from online_swav.evaluation.result import Judged, Result
    from online_swav.evaluation.trunks import Trunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One way to judge a trunk."""

    name: str
    """The word after `evaluate`."""
    help: str
    """One line for the list of protocols."""
    description: str
    """A few sentences for its own --help."""
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    """Judges and prints; the exit code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is judged, and the images it is judged by."""

    trunks: tuple[Trunk, ...]
    """The run's first, then those of --trunk, then the baselines."""
    sides: tuple[LabelledSet, ...]
    """Training and test images; only the test images, or none, where a protocol needs no more."""
    device: torch.device

    @property
    def train(self) -> LabelledSet:
        """Training images."""
        return self.sides[0]

    @property
    def test(self) -> LabelledSet:
        """Test images."""
        return self.sides[-1]


def lay_out(
    options: argparse.Namespace, *, train: bool = True, images: bool = True, official: bool = False
) -> Bench:
    """Trunks and images as the shared options name them.

    Args:
        options: With the shared ones.
        train: As in `add_shared_options`.
        images: As there.
        official: Whether pictures are cut as SwAV's evaluation does: with `OFFICIAL_MARGIN`.

    Raises:
        ConfigError: If something is missing, damaged, or does not fit.
    """
    run = options.run
    if run is None and not options.trunk:
        raise ConfigError("nothing to judge: give --run DIR, or --trunk TRUNK")
    places = _places(options, train=train) if images else []
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {options.json}: the folder does not exist")
    for name in ("size", "limit"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")

    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"--seed must be in [0, 2**32), got {options.seed}")

    from online_swav.assemble import choose_device

    device = choose_device(RunConfig(device=options.device))
    trunks = _trunks(options, device)
    sides = _sides(places, options, trunks, official=official)
    return Bench(trunks=trunks, sides=sides, device=device)


def _places(options: argparse.Namespace, *, train: bool) -> list[Sequence[str]]:
    """Of the labelled images: of the training side, if it is needed, and of the test side."""
    config = _config(options.run)
    known = (config.probe_train, config.probe_test) if config else ((), ())
    places = [options.test or known[1]]
    if train:
        places.insert(0, options.train or known[0])
    if not all(places):
        raise ConfigError(
            ("--train PLACE and --test PLACE are" if train else "--test PLACE is") + " needed"
            + (": the run has no probe" if options.run else "")
        )  # fmt: skip
    return places


def _sides(
    places: list[Sequence[str]], options: argparse.Namespace, trunks: tuple[Trunk, ...], *,
    official: bool,
) -> tuple[LabelledSet, ...]:  # fmt: skip
    from online_swav.evaluation.data import OFFICIAL_MARGIN, labelled_images
    from online_swav.evaluation.pairs import labelled_pair

    if not places:
        return ()
    margin = OFFICIAL_MARGIN if official else 1.0
    size = options.size or next((t.size for t in trunks if t.size), 224)
    print("reading the labels", file=sys.stderr)
    if len(places) == 2:
        return labelled_pair(*places, size=size, limit=options.limit, margin=margin)
    try:
        return (labelled_images(places[0], size=size, limit=options.limit, margin=margin),)
    except ConfigError as error:
        raise ConfigError(f"--test: {error}") from error


def judge(
    protocol: Protocol,
    options: argparse.Namespace,
    bench: Bench,
    one: Callable[[Trunk], Result],
    *,
    title: str,
    settings: dict[str, Any],
) -> int:
    """Judge every trunk on the bench with `one`, print the table, write the JSON; the exit code.

    Whatever ends it early, an error or Ctrl-C: the trunks that were judged are told first.

    Args:
        protocol: For its name.
        options: For what goes into the JSON of the shared ones, and its place.
        bench: From `lay_out`.
        one: Judges one trunk.
        title: Of the table.
        settings: What else decided the numbers, for the JSON.

    Raises:
        ConfigError: If the JSON cannot be written, or as `one` does.
    """
    from online_swav.evaluation.result import Judged

    judged: list[Judged] = []
    shared = {"seed": options.seed, "device": str(bench.device), **_images(options, bench)}
    try:
        for trunk in bench.trunks:
            begun = time.monotonic()
            result = one(trunk)
            seconds = time.monotonic() - begun
            print(f"{trunk.name}: {seconds:.1f} s", file=sys.stderr)
            judged.append(
                Judged(trunk=trunk.name, result=result, seconds=seconds, facts=trunk.facts)
            )
    finally:
        if judged:
            complete = len(judged) == len(bench.trunks)
            _tell(protocol, options, judged, title=title, settings=shared | settings,
                  complete=complete)  # fmt: skip
    return 0


def _tell(
    protocol: Protocol, options: argparse.Namespace, judged: Sequence[Judged], *, title: str,
    settings: dict[str, Any], complete: bool,
) -> None:  # fmt: skip
    """The table, and the JSON if it is wanted."""
    from rich.console import Console

    from online_swav.evaluation.result import table, to_json

    Console().print(table(title if complete else f"{title} (not finished)", judged))
    if options.json is not None:
        told = to_json(protocol.name, settings, judged, complete=complete)
        text = json.dumps(told, indent=1)
        try:
            options.json.write_text(text + "\n")
        except OSError as error:
            raise ConfigError(f"--json {options.json}: {error.strerror}") from error


def _images(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """About the labelled images, for the JSON."""
    if not bench.sides:
        return {}
    names = ("train", "test")[-len(bench.sides) :]
    return {
        "size": bench.test.size, "short_side": bench.test.short_side, "limit": options.limit,
        "classes": bench.test.num_classes,
        **{name: {"places": side.title, "images": len(side), "digest": side.digest}
           for name, side in zip(names, bench.sides, strict=True)},
    }  # fmt: skip


def _config(run: Path | None) -> RunConfig | None:
    """The run's own options; None for an encoder without a run."""
    if run is None or (run / "card.json").exists() or run.is_file():
        return None
    return load_yaml(run_folder(run) / "config.yaml", RunConfig())


def _trunks(options: argparse.Namespace, device: torch.device) -> tuple[Trunk, ...]:
    from online_swav.evaluation.trunks import PIXELS, RANDOM, trunk_from

    trunks: list[Trunk] = []
    specs = [str(options.run)] if options.run is not None else []
    for spec in (*specs, *options.trunk, *((RANDOM, PIXELS) if options.baselines else ())):
        like = trunks[0] if trunks else None
        trunk = trunk_from(spec, like=like, seed=options.seed, device=device)
        # Also head and prototypes: of two with one backbone, only one may have them.
        same = next(
            (t for t in trunks
             if (t.identity, t.score_identity) == (trunk.identity, trunk.score_identity)), None
        )  # fmt: skip
        if same is None:
            trunks.append(trunk)
        else:  # a torchvision trunk with random weights may be the baseline itself
            print(f"{spec} is the same as {same.name}: judged once", file=sys.stderr)
    return tuple(trunks)
