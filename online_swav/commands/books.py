"""`ledger`: the fate of every image, and which step it went into."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path

from online_swav.commands.options import run_folder
from online_swav.errors import ConfigError

_ACTIONS = {
    "totals": "shards and samples by state (the default)",
    "verify": "totals, and a check of every invariant; exit 1 names what is broken",
    "rebuild": "make a lost book anew from the checkpoints",
    "which-steps": "steps that trained a shard's images: --shard, perhaps --index",
    "which-samples": "images of the steps A to B: --steps A:B",
    "checkpoints": "checkpoints, and whether they have ever seen a shard: --without",
    "skip": "never train on a shard, or on the images of some steps, again",
}


def ledger(arguments: list[str]) -> int:
    """Totals of the books, questions to the lineage, rebuilding, skipping."""
    if not arguments or (arguments[0].startswith("--") and arguments[0] != "--help"):
        arguments = ["totals", *arguments]
    parser = argparse.ArgumentParser(
        prog="online-swav ledger", description="The books of a run: every sample's fate."
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, help in _ACTIONS.items():
        command = commands.add_parser(action, help=help, description=help)
        command.add_argument("--run", type=Path, required=True, metavar="DIR",
                             help="the run folder")  # fmt: skip
        if action in ("totals", "verify", "which-steps", "which-samples", "checkpoints"):
            command.add_argument("--json", action="store_true")
        if action in ("which-steps", "skip"):
            command.add_argument("--shard", required=action == "which-steps",
                                 help="its path, its file name or its id")  # fmt: skip
        if action == "which-steps":
            command.add_argument("--index", type=int, help="of one sample in the shard, from 0")
        if action in ("which-samples", "skip"):
            command.add_argument("--steps", type=_steps, required=action == "which-samples",
                                 metavar="A:B", help="steps A to B, both included")  # fmt: skip
        if action == "checkpoints":
            command.add_argument("--without", metavar="SHARD", help="only those that have "
                                 "never trained on this shard: path, file name or id")  # fmt: skip
    options = parser.parse_args(arguments)
    run = run_folder(options.run)
    if options.action in ("totals", "verify"):
        return _totals(run, json_=options.json, check=options.action == "verify")
    if options.action == "rebuild":
        from online_swav.books import rebuild

        print(rebuild(run))
        return 0
    if options.action == "which-steps":
        return _which_steps(run, options.shard, options.index, json_=options.json)
    if options.action == "which-samples":
        return _which_samples(run, *options.steps, json_=options.json)
    if options.action == "checkpoints":
        return _checkpoints(run, options.without, json_=options.json)
    return _skip(run, options.shard, options.steps)


def _steps(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not colon or not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of steps; write A:B with A <= B")
    return int(first), int(last)


def _totals(run: Path, *, json_: bool, check: bool) -> int:
    from online_swav.books import print_totals, totals, verify
    from online_swav.lineage_queries import skipped_totals

    counts = totals(run)
    if json_:
        print(json.dumps({name: dataclasses.asdict(c) for name, c in counts.items()}, indent=1))
    else:
        print_totals(counts)
        shards, samples = skipped_totals(run)
        if shards or samples:
            print(f"ruled out by a person: {shards} shards, {samples} single samples "
                  "(decisions/applied.jsonl has when and why)")  # fmt: skip
    if check:
        broken = verify(run)
        for line in broken:
            print(f"BROKEN  {line}")
        if broken:
            return 1
        print("verified: every invariant of the book holds")
    return 0


def _which_steps(run: Path, text: str, index: int | None, *, json_: bool) -> int:
    from online_swav.lineage_queries import find_shards, trainings

    shards = {shard.number: shard for shard in find_shards(run, text)}
    found = sorted(t for t in trainings(run) if t.shard in shards and index in (None, t.index))
    if json_:
        print(json.dumps([{**dataclasses.asdict(t), "shard": shards[t.shard].url} for t in found]))
        return 0
    for shard in shards.values():
        fate = f", {shard.fault}" if shard.fault else ""
        print(f"{shard.url} ({shard.id}): {shard.state}, {shard.trained} trained, "
              f"{shard.rejected} dropped{fate}")  # fmt: skip
    by_step: dict[tuple[int, int, int, bool], list[int]] = {}
    for t in found:
        by_step.setdefault((t.step, t.rank, t.pass_number, t.committed), []).append(t.index)
    for (step, rank, pass_number, committed), indices in by_step.items():
        kind = "trained" if pass_number == 0 else f"replay {pass_number}"
        late = "" if committed else ", since the newest checkpoint"
        print(f"  step {step}, rank {rank}: {kind}, {len(indices)} images "
              f"({_ranges(sorted(indices))}){late}")  # fmt: skip
    if not found:
        print("  no step of the surviving weights has trained on it")
    return 0


def _ranges(indices: list[int]) -> str:
    from streams.shard import to_ranges

    parts = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in to_ranges(indices)]
    return "index " + ", ".join(parts)


def _which_samples(run: Path, first: int, last: int, *, json_: bool) -> int:
    from online_swav.lineage_queries import shards_by_number, trainings

    found = sorted(trainings(run, first=first, last=last))
    shards = shards_by_number(run, {t.shard for t in found})
    if json_:
        print(json.dumps([{**dataclasses.asdict(t), "shard": shards[t.shard].url} for t in found]))
        return 0
    print("step\trank\tpass\tindex\tshard")
    for t in found:
        print(t.step, t.rank, t.pass_number, t.index, shards[t.shard].url, sep="\t")
    return 0


def _checkpoints(run: Path, without: str | None, *, json_: bool) -> int:
    from online_swav.lineage_queries import exposures, find_shards

    numbers = {shard.number for shard in find_shards(run, without)} if without else set()
    found = [e for e in exposures(run, numbers) if not without or e.images == 0]
    if json_:
        print(json.dumps([{**dataclasses.asdict(e), "path": str(e.path)} for e in found]))
        return 0
    for e in found:
        print(f"step {e.step}  {e.path}")
    if not found:
        print("no checkpoint on disk" + (" is without it: all have trained on it" if without
                                         else ""))  # fmt: skip
    return 0


def _skip(run: Path, text: str | None, steps: tuple[int, int] | None) -> int:
    from online_swav.commands.decide import carry_out, decisions_of
    from online_swav.lineage_queries import find_shards, trainings

    if (text is None) == (steps is None):
        raise ConfigError("skip needs either --shard SHARD or --steps A:B")
    decisions = decisions_of(run)
    if text is not None:
        shards = find_shards(run, text)
        for shard in shards:
            print(f"{shard.url} ({shard.id}): {shard.trained} images were trained before")
        carry_out(run, [decisions.skip_shards([shard.id for shard in shards])])
        return 0
    assert steps is not None
    found = Counter((t.shard, t.index) for t in trainings(run, first=steps[0], last=steps[1]))
    if not found:
        raise ConfigError(f"--steps {steps[0]}:{steps[1]}: the surviving weights have no such step")
    why = f"steps {steps[0]}:{steps[1]}"
    carry_out(run, [decisions.skip_samples(sorted(found), why=why)])
    return 0
