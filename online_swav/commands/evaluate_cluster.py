"""`evaluate cluster`: prototypes against labels."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from typing import TYPE_CHECKING

from online_swav.commands.counting import counting
from online_swav.commands.protocol import Protocol, judge, lay_out
from online_swav.commands.protocol_options import add_shared_options
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.evaluation.clusters import ClusterResult
    from online_swav.evaluation.trunks import Trunk


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_shared_options(parser, train=False)


def _run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("sklearn") is None:
        from online_swav.evaluation.clusters import MISSING

        raise ConfigError(MISSING)
    bench = lay_out(options, train=False)
    if bench.test.multi_label:
        raise ConfigError("clusters need one label for each image (KEY.cls), not several")
    clusters = next((t.prototypes for t in bench.trunks if t.prototypes), None)
    if clusters is None:
        raise ConfigError(
            f"{bench.trunks[0].name} has no prototypes; give --run, or a checkpoint of a run"
        )
    from online_swav.evaluation.clusters import ClusterResult, cluster_agreement, k_means
    from online_swav.evaluation.features import features_of, scores_of

    enough = len(bench.test) >= clusters
    if not enough:
        print(f"no k-means: {len(bench.test)} images cannot make {clusters} clusters",
              file=sys.stderr)  # fmt: skip

    def one(trunk: Trunk) -> ClusterResult:
        prototypes = means = None
        looks = (trunk.prototypes is not None) + enough
        with counting(trunk.name, looks * len(bench.test)) as advance:
            if trunk.prototypes is not None:
                # At the size it was made for: its head has seen no other.
                size = trunk.size or bench.test.size
                seen = scores_of(trunk, dataclasses.replace(bench.test, size=size),
                                 cache=options.cache, advance=advance)  # fmt: skip
                prototypes = cluster_agreement(
                    seen.features.argmax(dim=1), seen.labels, clusters=trunk.prototypes
                )
            if enough:
                seen = features_of(trunk, bench.test, cache=options.cache, advance=advance)
                if len(seen.labels) >= clusters:
                    found = k_means(seen, clusters=clusters, seed=options.seed)
                    means = cluster_agreement(found, seen.labels, clusters=clusters)
                else:
                    print(f"{trunk.name}: no k-means: {len(seen.labels)} images that decode "
                          f"cannot make {clusters} clusters", file=sys.stderr)  # fmt: skip
        return ClusterResult(prototypes=prototypes, k_means=means)

    title = (
        f"clusters against labels: {len(bench.test)} images, {bench.test.num_classes} classes, "
        f"{bench.test.size} px"
    )
    return judge(CLUSTER, options, bench, one, title=title, settings={"clusters": clusters})


CLUSTER = Protocol(
    name="cluster",
    help="the prototypes' clusters against labels: NMI, ARI, purity",
    description="Each image belongs to the prototype with the highest score; these clusters are "
    "compared with the labels. Beside them k-means of the features into as many clusters, which "
    "every trunk has: the baselines too. NMI and purity grow with the number of clusters, ARI is "
    "adjusted for chance. Needs scikit-learn: pip install 'online-swav[evaluate]'.",
    add_options=_add_options,
    run=_run,
)
