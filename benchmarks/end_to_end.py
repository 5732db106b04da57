"""The whole pipeline: what Ray costs, whom ingest feeds, how long learners wait, what growth does.

    python benchmarks/end_to_end.py --images 'imagenette/train-*.tar' \
        --out benchmarks/results/end_to_end.json

`--parts` picks some of: feed (one ingest actor and a consumer beside the same reader in process),
actors (one and two of them, and a learner that only sleeps), waiting (a real run), growth (a longer
run, a fuller folder, more prototypes, a longer queue; no Ray, its own images). Parts that are in
the JSON already and are not measured again stay there. Figures are medians; the spread is from the
least to the most.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from end_to_end_run import PRESET
from measuring import machine, write_json
from rich.console import Console
from rich.table import Table

from online_swav.config import OFFICIAL_CROPS, load_yaml
from online_swav.errors import ConfigError
from online_swav.presets import preset
from streams.errors import SourceError
from streams.sources import DirectorySource, describe_missing

Options = argparse.Namespace
Result = Mapping[str, Any]


# -- the parts -------------------------------------------------------------------------------------
# Ray is imported where it is used: growth needs none.


def feed(options: Options, folder: Path, _before: Result) -> dict[str, Any]:
    """See `end_to_end_ray.measure_feed`."""
    from end_to_end_feeds import Turns
    from end_to_end_ray import measure_feed

    turns = Turns(OFFICIAL_CROPS, options.batch, options.turn_images, options.repetitions)
    return {"sample": _sample(options.images)} | measure_feed(options.images, folder, turns)


def actors(options: Options, folder: Path, before: Result) -> dict[str, Any]:
    """See `end_to_end_ray.measure_actors`; the learner of the part `waiting` is fed as well."""
    from end_to_end_feeds import Turns
    from end_to_end_ray import measure_actors

    turns = Turns(OFFICIAL_CROPS, options.learner_batch, options.turn_images, options.repetitions)
    learners = [before["waiting"]["images_per_s"]] if "waiting" in before else []
    return {"sample": _sample(options.images)} | measure_actors(
        options.images, folder, turns, step_s=options.step_ms / 1e3, learners=learners
    )


def waiting(options: Options, folder: Path, _before: Result) -> dict[str, Any]:
    """See `end_to_end_run.measure_waiting`."""
    from end_to_end_run import measure_waiting

    return {"sample": _sample(options.images)} | measure_waiting(
        options.images, folder, steps=options.steps, warm_up=options.warm_up,
        config=options.config, repetitions=options.repetitions,
    )  # fmt: skip


def growth(options: Options, folder: Path, _before: Result) -> dict[str, Any]:
    """See `end_to_end_growth`."""
    from end_to_end_growth import measure_growth, studies

    every = studies(images=options.run_images, shards=options.shards,
                    prototypes=options.prototypes, queue=options.queue,
                    queue_prototypes=options.queue_prototypes)  # fmt: skip
    return measure_growth(every, folder, options.repetitions)


# -- tables ----------------------------------------------------------------------------------------


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _range(of: Mapping[str, float], form: str = ",.0f") -> str:
    return f"{of['median']:{form}} ({of['min']:{form}} to {of['max']:{form}})"


def _print_store(store: Result, console: Console) -> None:
    table = _table("Object store, a ready batch", "", "us per image (spread)")
    for name, of in store["us_per_image"].items():
        table.add_row(name, _range(of, ".1f"))
    table.add_row("put and get", f"{store['put_and_get_us_per_image']:.1f}")
    console.print(table)
    console.print(
        f"{store['image_bytes'] / 1e3:.0f} kB per image, {store['mb_per_s']:.0f} MB/s; put takes "
        f"{store['put_share_of_ingest']:.1%} of the actor's core, get "
        f"{store['get_share_of_consumer']:.2%} of the consumer's time"
    )


def print_feed(result: Result, console: Console) -> None:
    """The table."""
    table = _table(f"Feed: {result['sample']}, batches of {result['batch']}", "",
                   "images/s (spread)", "reader's CPU, us per image")  # fmt: skip
    for name, of in result["images_per_s"].items():
        table.add_row(name, _range(of), _range(result["reader_cpu_us_per_image"][name]))
    console.print(table)
    console.print(f"over Ray / in process: {result['ratio']:.3f} (target: at least 0.90)")
    _print_store(result["store"], console)


def print_actors(result: Result, console: Console) -> None:
    """The tables."""
    table = _table(f"Actors: {result['sample']}, batches of {result['batch']}", "actors",
                   "images/s (spread)")  # fmt: skip
    for number, of in result["images_per_s"].items():
        table.add_row(number, _range(of))
    console.print(table)
    console.print(f"two / one: {result['two_by_one']:.2f}")
    cores = _table("Ingest cores that a learner needs", "learner, images/s", "from one actor",
                   "from two")  # fmt: skip
    for row in result["cores_for"]:
        cores.add_row(f"{row['learner_images_per_s']:,.0f}", str(row["from_one"]),
                      str(row["from_two"]))  # fmt: skip
    console.print(cores)
    waits = _table("A learner that only sleeps", "learner, images/s", "actors",
                   "waiting, predicted", "measured (spread)")  # fmt: skip
    for row in result["waiting"]:
        waits.add_row(f"{row['learner_images_per_s']:,.0f}", str(row["actors"]),
                      f"{row['predicted']:.1%}", _range(row["measured"], ".1%"))  # fmt: skip
    console.print(waits)
    _print_store(result["store"], console)


def print_waiting(result: Result, console: Console) -> None:
    """The table."""
    table = _table(f"A real run: {result['sample']}, {result['preset']}"
                   + (", changed" if result["changed"] else ""), "", "")  # fmt: skip
    table.add_row("images/s", f"{result['images_per_s']:.1f}")
    table.add_row("waiting (target: under 2%)", f"{result['waiting']:.2%}")
    table.add_row("by report (spread)", _range(result["waiting_by_report"], ".2%"))
    table.add_row("ingest on one core, images/s (spread)", _range(result["ingest_images_per_s"]))
    table.add_row("ingest cores needed", f"{result['ingest_cores_needed']:.2f}")
    console.print(table)
    console.print(f"{result['steps']} steps in {result['seconds']} s, share of time by phase: "
                  f"{result['phase_share']}")  # fmt: skip


def print_growth(result: Result, console: Console) -> None:
    """A table per study; an exponent stands at the larger of its two sizes."""
    for what, study in result["studies"].items():
        table = _table(f"Growth: {what}", "", *(f"{size:,}" for size in study["sizes"]),
                       "exponents")  # fmt: skip
        rows = {name: [_range(of, ".4g") for of in values]
                for name, values in study["costs"].items()}  # fmt: skip
        rows["memory_mb"] = [f"{mb:.0f}" for mb in study["memory_mb"]]
        rows["images/s"] = [f"{rate:,.1f}" for rate in study["images_per_s"]]
        for name, values in rows.items():
            found = study["exponents"].get(name, ())
            table.add_row(name, *values, ", ".join(f"{exponent:.2f}" for exponent in found))
        console.print(table)
    worse = result["worse_than_linear"]
    console.print("\n".join(f"worse than linear: {line}" for line in worse) or
                  "nothing grows faster than in proportion")  # fmt: skip


# -- the whole -------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[Options, Path, Result], dict[str, Any]],
                       Callable[[Result, Console], None]]] = {
    "feed": (feed, print_feed), "waiting": (waiting, print_waiting),
    "actors": (actors, print_actors), "growth": (growth, print_growth),
}  # fmt: skip


def _sample(pattern: str) -> str:
    """Name of the folder: its place is nobody's business."""
    path = Path(pattern).absolute()
    return path.name if path.is_dir() else path.parent.name


def _check(options: Options) -> None:
    """End with one line that says what to do, before anything is measured."""
    if set(options.parts) - {"growth"}:
        if options.images is None:
            sys.exit("--images is missing: give a folder or glob of tars, or --parts growth alone")
        problem = describe_missing(options.images)
        try:
            source = DirectorySource("images", options.images, settle_s=0.0)
            if problem is None and not source.candidates():
                problem = f"{options.images} matches no tar; give a folder of tars or a glob"
        except SourceError as error:
            problem = str(error)
        if problem is not None:
            sys.exit(f"--images: {problem}")
    for name in ("run_images", "shards", "prototypes", "queue"):
        sizes = getattr(options, name)
        if min(sizes) < 0 or sizes != sorted(set(sizes)):
            sys.exit(f"--{name.replace('_', '-')}: give sizes that increase, such as 10 100")
    if options.config is not None:
        try:
            load_yaml(options.config, preset(PRESET))
        except ConfigError as error:
            sys.exit(f"--config: {error}")


def _stored(out: Path | None) -> dict[str, Any]:
    """What a file holds already."""
    if out is None or not out.exists():
        return {}
    try:
        return dict(json.loads(out.read_text()))
    except (OSError, ValueError, TypeError):
        sys.exit(f"--out: {out} is there and is no JSON of this benchmark; give another name")


def _number(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS),
                        help="what to measure (default: everything)")  # fmt: skip
    parser.add_argument("--images", help="folder or glob of tars; growth makes its own")
    parser.add_argument("--repetitions", type=_number, default=5,
                        help="turns that a median is taken of (default: 5)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON with the result; other parts in it stay")
    over_ray = parser.add_argument_group("feed and actors")
    over_ray.add_argument("--turn-images", type=_number, default=8192,
                          help="images read in every turn (default: 8192)")  # fmt: skip
    over_ray.add_argument("--batch", type=_number, default=64,
                          help="images per batch in feed (default: 64)")  # fmt: skip
    over_ray.add_argument("--learner-batch", type=_number, default=256,
                          help="images per batch in actors (default: 256)")  # fmt: skip
    over_ray.add_argument("--step-ms", type=_number, default=256,
                          help="milliseconds that the sleeping learner takes for a batch (default: "
                          "256, with batches of 256 a GPU's 1,000 images/s)")  # fmt: skip
    real = parser.add_argument_group("waiting")
    real.add_argument("--steps", type=_number, default=60, help="that are watched (default: 60)")
    real.add_argument("--warm-up", type=_number, default=10,
                      help="steps before those (default: 10)")  # fmt: skip
    real.add_argument("--config", type=Path,
                      help=f"YAML with options of the run, over the preset {PRESET}")  # fmt: skip
    sizes = parser.add_argument_group("growth (sizes, increasing)")
    sizes.add_argument("--run-images", type=_number, nargs="+", default=[2_000, 20_000],
                       help="images of a run (default: 2000 20000)")  # fmt: skip
    sizes.add_argument("--shards", type=_number, nargs="+", default=[1_000, 10_000, 100_000],
                       help="shards in a folder (default: 1000 10000 100000)")  # fmt: skip
    sizes.add_argument("--prototypes", type=_number, nargs="+", default=[300, 3_000, 30_000],
                       help="K (default: 300 3000 30000)")  # fmt: skip
    sizes.add_argument("--queue", type=int, nargs="+", default=[0, 3_840, 16_384],
                       help="embeddings in the queue (default: 0 3840 16384)")  # fmt: skip
    sizes.add_argument("--queue-prototypes", type=_number, default=3_000,
                       help="K of the queue's sizes (default: 3000)")  # fmt: skip
    return parser


def main() -> None:
    """Parse, then for each part measure, print, write."""
    options = _parser().parse_args()
    _check(options)
    result = _stored(options.out)
    result.pop("date", None)
    console = Console(width=120, highlight=False)
    for part, (measure, show) in PARTS.items():
        if part not in options.parts:
            continue
        with tempfile.TemporaryDirectory(prefix=f"{part}-benchmark-") as name:
            measured = measure(options, Path(name), result)
        result[part] = {
            "date": datetime.now(UTC).date().isoformat(), "machine": machine("ray", "torch")
        } | measured  # fmt: skip
        show(measured, console)
        write_json(options.out, result)  # after each part: what is measured is not lost


if __name__ == "__main__":
    main()
