"""All checks: the quick ones of every start, and the thorough ones of `online-swav doctor`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, ok
from online_swav.preflight.disk import disk_checks
from online_swav.preflight.folder import folder_check
from online_swav.preflight.load import load_check, measured_under_load
from online_swav.preflight.machine import machine_checks, usable_cores
from online_swav.preflight.port import port_checks
from online_swav.preflight.ray_address import address_checks, ray_address
from online_swav.preflight.recipe import recipe_checks
from online_swav.preflight.sources import AT_START, THOROUGH, SourceReading
from online_swav.preflight.throughput import reader_check, throughput_check


def quick_checks(config: RunConfig, shards: dict[str, list[str]]) -> list[Check]:
    """What every start is worth: about half a second, a few megabytes.

    Args:
        config: The run, with absolute places.
        shards: Tars that are there, by source.
    """
    reading = SourceReading(config, shards, AT_START)  # beside the other checks
    checks = [
        *recipe_checks(config), *machine_checks(config), *disk_checks(config),
        *port_checks(config), *address_checks(os.environ),
    ]  # fmt: skip
    read, rate = reading.finish()
    checks += read
    if rate is not None:
        checks.append(reader_check(config, rate))
    return checks


def thorough_checks(config: RunConfig, shards: dict[str, list[str]]) -> list[Check]:
    """The same with more images, the cluster, and the learner at work: seconds.

    Args:
        config: The run, with absolute places.
        shards: Tars that are there, by source.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("online-swav", "torch", "ray"))
    address = address_checks(os.environ)
    load = load_check()  # while nothing of ours works
    checks = [
        ok("versions", f"Python {platform.python_version()}, {versions}"),
        folder_check(config), *recipe_checks(config), *machine_checks(config),
        load, *disk_checks(config), *port_checks(config, patience_s=0), *address,
    ]  # fmt: skip
    on_cluster = ray_address(os.environ) is not None
    if on_cluster and all(check.level != "refusal" for check in address):
        from online_swav.preflight.ray_cluster import cluster_checks

        checks += cluster_checks(config)
    read, reader_rate = SourceReading(config, shards, THOROUGH).finish()
    checks += read
    if reader_rate is not None:
        checks.append(reader_check(config, reader_rate))
    if all(check.name != "model" for check in checks):
        from online_swav.preflight.learner_speed import time_learner

        check, speed = time_learner(config)
        checks.append(check)
        if speed is not None and reader_rate is not None:
            checks.append(
                throughput_check(
                    config, reader_rate=reader_rate, learner_rate=speed.images_per_s,
                    threads=speed.threads, cores=None if on_cluster else usable_cores(),
                )
            )  # fmt: skip
    return checks if load.level == "ok" else measured_under_load(checks)
