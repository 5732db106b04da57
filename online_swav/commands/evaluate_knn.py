"""`evaluate knn`: weighted k-nearest neighbours."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from online_swav.commands.counting import counting
from online_swav.commands.protocol import Protocol, judge, lay_out
from online_swav.commands.protocol_options import add_shared_options
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.evaluation.knn import KnnResult
    from online_swav.evaluation.trunks import Trunk


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-k",
        type=int,
        nargs="+",
        default=[1, 5, 10, 20, 200],
        metavar="K",
        help="neighbours that vote, several in one pass (default: 1 5 10 20 200)",
    )
    parser.add_argument("--temperature", type=float, default=0.07,
                        help="a vote weighs exp(cosine / temperature) (default: 0.07)")  # fmt: skip
    add_shared_options(parser)


def _run(options: argparse.Namespace) -> int:
    if min(options.k) < 1:
        raise ConfigError(f"-k must be at least 1, got {min(options.k)}")
    if not options.temperature > 0:
        raise ConfigError(f"--temperature must be positive, got {options.temperature}")
    bench = lay_out(options)
    if bench.test.multi_label:
        raise ConfigError(
            "the images have several labels each (KEY.json); `evaluate transfer` judges these"
        )
    from online_swav.evaluation.features import features_of
    from online_swav.evaluation.knn import evaluate_knn

    ks = sorted(set(options.k))

    def one(trunk: Trunk) -> KnnResult:
        with counting(trunk.name, sum(len(side) for side in bench.sides)) as advance:
            train, test = (
                features_of(trunk, side, cache=options.cache, advance=advance)
                for side in bench.sides
            )
        return evaluate_knn(train, test, num_classes=bench.test.num_classes, ks=ks,
                            temperature=options.temperature, device=bench.device)  # fmt: skip

    title = (
        f"weighted k-NN, temperature {options.temperature}: {len(bench.test)} images among "
        f"{len(bench.train)}, {bench.test.num_classes} classes, {bench.test.view}"
    )
    return judge(KNN, options, bench, one, title=title,
                 settings={"k": ks, "temperature": options.temperature})  # fmt: skip


KNN = Protocol(
    name="knn",
    help="weighted k-nearest neighbours: top-1 and top-5, nothing is trained",
    description="Each held-out image gets the class for which its nearest training images vote, by "
    "the cosine of their features (Wu et al. 2018, and SwAV's paper, appendix).",
    add_options=_add_options,
    run=_run,
)
