"""What a Ray cluster has against what a run needs. Joining it costs seconds: for `doctor` only."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, count, ok, refusal, warning


def cluster_checks(config: RunConfig) -> list[Check]:
    """Join the cluster of RAY_ADDRESS, ask what it has, and leave it."""
    import ray

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        return [
            refusal(
                "ray_cluster",
                f"cannot join {os.environ.get('RAY_ADDRESS')}: {error}. Versions of Python and Ray "
                "must be the cluster's, and so must RAY_AUTH_MODE and the token; Ray's own lines "
                "above may say which it is.",
                final=True,
            )
        ]
    try:
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        return [resources_check(config, ray.cluster_resources(), nodes=nodes)]
    finally:
        ray.shutdown()


def resources_check(config: RunConfig, has: Mapping[str, float], *, nodes: int) -> Check:
    """Learners and ingest actors against the cluster's CPUs and GPUs."""
    learners, actors = config.learners, config.ingest.actors
    on_gpu = config.device == "cuda" or (config.device == "auto" and has.get("GPU", 0) > 0)
    needs = {"CPU": learners + actors} | ({"GPU": learners} if on_gpu else {})
    whose = {"GPU": count(learners, "learner")}
    whose["CPU"] = f"{whose['GPU']}, {count(actors, 'reader')}"
    numbers = " and ".join(
        f"{count(needed, kind)} ({whose[kind]}) of {has.get(kind, 0):g}"
        for kind, needed in needs.items()
    )
    text = f"the run takes {numbers} on {count(nodes, 'node')}"
    if any(has.get(kind, 0) < needed for kind, needed in needs.items()):
        # No refusal: a cluster that scales by itself begins small.
        return warning(
            "ray_cluster",
            f"{text}: Ray waits until there is more. Add nodes, or lower --learners and --ingest.",
        )
    return ok("ray_cluster", text)
