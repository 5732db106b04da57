"""`quarantine`: what could not be used, a second try, the bin."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.commands.options import run_folder
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.lineage_queries import KnownShard
    from streams.quarantine_review import QuarantinedSample

SHOWN = 10


def quarantine(arguments: list[str]) -> int:
    """List, retry or discard rejected samples and unreadable shards."""
    parser = argparse.ArgumentParser(
        prog="online-swav quarantine",
        description="What a run could not use: single samples, kept as copies, and whole shards.",
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, help in (
        ("list", "what waits for a decision"),
        ("retry", "offer shards again, and the copies of samples as a new shard; "
                  "ends the pause of a --source"),
        ("discard", "take samples and shards off the list for good, with the copies"),
    ):  # fmt: skip
        command = commands.add_parser(action, help=help, description=help)
        command.add_argument("--run", type=Path, required=True, metavar="DIR",
                             help="the run folder")  # fmt: skip
        command.add_argument("--source", help="only of this source")
        command.add_argument("--shard", help="only of this shard: its path, file name or id")
        command.add_argument("--reason", help="only samples that were dropped for this reason")
        if action == "list":
            command.add_argument("--json", action="store_true")
        else:
            command.add_argument("--all", action="store_true", help="everything on the list")
    options = parser.parse_args(arguments)
    run = run_folder(options.run)
    if options.action == "list":
        return _list(run, options)
    if not (options.all or options.source or options.shard or options.reason):
        raise ConfigError(f"quarantine {options.action} needs --all, or a --source, --shard or "
                          "--reason that narrows it")  # fmt: skip
    return (_retry if options.action == "retry" else _discard)(run, options)


def _choose(
    run: Path, options: argparse.Namespace
) -> tuple[list[KnownShard], list[QuarantinedSample]]:
    """Shards with a fault, and samples that wait, as the options narrow them."""
    from online_swav.books import totals
    from online_swav.lineage_queries import find_shards, shards_with_fault
    from streams.quarantine_review import QuarantineReview
    from streams.shard import DROP_REASONS

    sources = totals(run)
    if options.source is not None and options.source not in sources:
        raise ConfigError(f"--source {options.source}: the book knows {', '.join(sources)}")
    if options.reason is not None and options.reason not in DROP_REASONS:
        raise ConfigError(f"--reason {options.reason}: the reasons are {', '.join(DROP_REASONS)}")
    ids = {s.id for s in find_shards(run, options.shard)} if options.shard else None
    samples = [
        s for s in QuarantineReview(run / "quarantine").waiting()
        if options.source in (None, s.source) and options.reason in (None, s.reason)
        and (ids is None or s.shard in ids)
    ]  # fmt: skip
    shards = [
        s for s in shards_with_fault(run)
        if options.source in (None, s.source) and options.reason is None and not s.ruled_out
        and (ids is None or s.id in ids)
    ]  # fmt: skip
    return shards, samples


def _list(run: Path, options: argparse.Namespace) -> int:
    from online_swav.books import totals

    shards, samples = _choose(run, options)
    if options.json:
        print(json.dumps({"shards": [dataclasses.asdict(s) for s in shards],
                          "samples": [dataclasses.asdict(s) for s in samples]}))  # fmt: skip
        return 0
    for name, counts in totals(run).items():
        if counts.paused and options.source in (None, name):
            print(f"source {name} is paused: {counts.paused}")
    unreadable = [s for s in shards if s.retired]
    damaged = [s for s in shards if not s.retired]
    print(f"{len(unreadable)} shards cannot be read")
    for shard in unreadable[:SHOWN]:
        print(f"  {shard.url}: {shard.fault}")
    if damaged:
        print(f"{len(damaged)} shards were read up to a damage")
    for shard in damaged[:SHOWN]:
        print(f"  {shard.url}: {shard.fault}; {shard.trained} trained, {shard.rejected} dropped")
    by_reason = Counter(s.reason for s in samples)
    print(f"{len(samples)} samples" + "".join(f", {n} {r}" for r, n in by_reason.items()))
    for sample in samples[:SHOWN]:
        print(f"  {sample.url} index {sample.index} ({sample.reason}): {sample.detail}")
    if max(len(unreadable), len(damaged), len(samples)) > SHOWN:
        print(f"  only the first {SHOWN} of each are shown; --json has all, --reason narrows")
    return 0


def _retry(run: Path, options: argparse.Namespace) -> int:
    from online_swav.books import totals
    from online_swav.commands.decide import carry_out, decisions_of
    from streams.quarantine_review import QuarantineReview

    shards, samples = _choose(run, options)
    review = QuarantineReview(run / "quarantine")
    decisions = decisions_of(run)
    chosen = []
    retired = [s.id for s in shards if s.retired]
    if retired:
        chosen.append(decisions.retry_shards(retired))
    packed, packable = review.pack(samples)
    chosen += [decisions.add_shard(shard) for shard in packed]
    for source, counts in totals(run).items():
        if counts.paused and (options.all or options.source == source):
            chosen.append(decisions.release_source(source))
    review.decide(packable, "retried")
    carry_out(run, chosen)
    without = len(samples) - len(packable)
    print(f"{len(packable)} samples are offered again, in {len(packed)} new shards"
          + (f"; {without} have no bytes to offer" if without else ""))  # fmt: skip
    return 0


def _discard(run: Path, options: argparse.Namespace) -> int:
    from online_swav.commands.decide import carry_out, decisions_of
    from streams.quarantine_review import QuarantineReview

    shards, samples = _choose(run, options)
    retired = [s.id for s in shards if s.retired]
    if retired:
        carry_out(run, [decisions_of(run).skip_shards(retired)])
    number = QuarantineReview(run / "quarantine").decide(samples, "discarded")
    print(f"{number} samples are discarded")
    return 0
