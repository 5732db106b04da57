"""Disk, port, cores, Ray, speed: what this machine or a cluster has against what a run needs."""

import collections
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from online_swav.config import MetricsConfig, RunConfig
from online_swav.learning.config import LearnerConfig, ModelConfig, OptimConfig, QueueConfig
from online_swav.metrics_server import port_error
from online_swav.preflight import disk, load
from online_swav.preflight.check import force_hint, forced, ok, refusal, refused
from online_swav.preflight.disk import disk_checks
from online_swav.preflight.folder import folder_check
from online_swav.preflight.load import judge_load
from online_swav.preflight.machine import cores_checks, machine_checks, usable_cores
from online_swav.preflight.port import port_checks
from online_swav.preflight.ray_address import address_checks, remote_ray_address
from online_swav.preflight.ray_cluster import resources_check
from online_swav.preflight.throughput import short, throughput_check
from streams.config import IngestConfig

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def config(tmp_path):
    return RunConfig(run=str(tmp_path / "run"))


def with_actors(config, actors, most=None):
    return dataclasses.replace(config, ingest=IngestConfig(actors=actors, max_actors=most))


# -- disk ------------------------------------------------------------------------------------------


def has_checkpoints(config, count, size):
    for step in range(count):
        folder = Path(config.run) / "checkpoints" / f"step-{step:09d}"
        folder.mkdir(parents=True)
        files = {"learner.pt": {"size_bytes": size - 10}, "config.yaml": {"size_bytes": 10}}
        (folder / "manifest.json").write_text(json.dumps({"files": files}))


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [
        (199, "refusal", "1 fit, and 2 must"),
        (200, "warning", "the run 650 MB (--checkpoint.keep 3)"),
        (650, "warning", "less than 10% of the disk is free"),
        (1000, "ok", "a checkpoint takes 100 MB, the run 650 MB"),
    ],
)
def test_checkpoints_must_fit(config, monkeypatch, free, level, text):
    monkeypatch.setattr(disk, "_estimate", lambda _: 100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 0, free * 10**6))
    (check,) = disk_checks(config)
    assert check.level == level
    assert text in check.text


def test_the_newest_checkpoint_is_the_measure_and_what_is_there_counts(config, monkeypatch):
    has_checkpoints(config, 3, size=int(100e6))
    asked = []
    usage = Usage(10**9, 0, 25 * 10**7)
    for step in (1, 2):
        (Path(config.run) / "published" / f"step-{step:09d}").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    (check,) = disk_checks(config)
    assert check.level == "ok", "three checkpoints of five and two encoders of three are there"
    assert "the run 250 MB beside the 3 that are there" in check.text
    assert asked == [Path(config.run) / "checkpoints"], "it may be a disk of its own"


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_estimate_is_what_a_checkpoint_takes(config, tmp_path, kind):
    import torch

    from online_swav.learning.learner import Learner

    small = LearnerConfig(
        model=ModelConfig(hidden_dim=8, embedding_dim=32, num_prototypes=16),
        queue=QueueConfig(length=20_000), optim=OptimConfig(kind=kind),
    )  # fmt: skip
    estimate = disk._estimate(dataclasses.replace(config, learner=small))
    learner = Learner(small)
    for parameter in learner.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner._optimizer.step()  # moments are made at the first step
    torch.save(learner.state_dict(), tmp_path / "learner.pt")
    assert estimate == pytest.approx((tmp_path / "learner.pt").stat().st_size, rel=0.1)


def test_a_network_that_does_not_exist_is_refused(config):
    model = ModelConfig(backbone="resnet1")
    (check,) = disk_checks(dataclasses.replace(config, learner=LearnerConfig(model=model)))
    assert (check.name, check.level) == ("model", "refusal")
    assert "resnet18" in check.text


# -- folder and port -------------------------------------------------------------------------------


def test_the_run_folder_is_new_or_resumed_or_in_use(config):
    assert folder_check(config).text.endswith("run will be made")
    run = Path(config.run)
    (run / "checkpoints").mkdir(parents=True)
    assert folder_check(config).text.endswith("begins at step 0")
    (run / "checkpoints" / "latest").write_text("step-000000500\n")
    assert folder_check(config).text.endswith("resumed from step-000000500")
    with (run / "run.lock").open("w") as file:
        file.write("4711\n")
        file.flush()
        assert folder_check(config).level == "ok", "a lock nobody holds is left over"
        fcntl.flock(file, fcntl.LOCK_EX)
        check = folder_check(config)
    assert check.level == "refusal"
    assert "in use by process 4711" in check.text


def test_a_folder_that_cannot_be_written_is_refused(config, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert folder_check(config).level == "refusal"


def on_port(config, port, host="127.0.0.1"):
    return dataclasses.replace(config, metrics=MetricsConfig(host=host, port=port))


def test_a_port_that_is_held_is_refused_with_advice(config):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        (check,) = port_checks(on_port(config, port))
    assert check.level == "refusal"
    assert check.text == (
        f"port {port} on 127.0.0.1 is in use by another process, perhaps another run: give "
        "another --metrics.port, or 0 for a free one"
    )
    (check,) = port_checks(on_port(config, port))
    assert (check.level, check.text) == ("ok", f"port {port} is free on 127.0.0.1")


def test_a_host_that_is_not_here_is_refused(config):
    (check,) = port_checks(on_port(config, 0, "192.0.2.1"))
    assert check.level == "refusal"
    assert "no port can be opened on 192.0.2.1, which is no IPv4 address or name" in check.text
    assert "give another --metrics.host" in check.text


def test_a_port_that_this_user_may_not_open_is_said_in_words():
    error = port_error("127.0.0.1", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert str(error) == (
        "port 80 on 127.0.0.1 is not to be had (Permission denied): give another --metrics.port, "
        "or 0 for a free one"
    )


def test_the_actors_of_a_killed_driver_may_hold_the_port_a_moment_longer(config):
    run = Path(config.run)
    run.mkdir()
    (run / "status.json").touch()  # this run has been started before
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    timer = threading.Timer(0.3, holder.close)
    timer.start()
    (check,) = port_checks(on_port(config, port))
    timer.join()
    assert check.level == "ok"


# -- cores and Ray ---------------------------------------------------------------------------------


def test_more_readers_than_cores_are_warned_of_with_numbers(config):
    (check,) = cores_checks(with_actors(config, 3), cores=2, all_cores=2)
    assert check.level == "warning"
    assert "3 readers and 1 learner of 1 thread or more want 4 cores, and here are 2" in check.text
    (check,) = cores_checks(with_actors(config, 1), cores=2, all_cores=2)
    assert check.level == "ok"
    threads = dataclasses.replace(config, threads=4)
    (check,) = cores_checks(threads, cores=4, all_cores=4)
    assert "want 5 cores" in check.text


def test_threads_of_a_big_machine_in_a_small_container_are_warned_of(config):
    cores, threads = cores_checks(config, cores=4, all_cores=64)
    assert (cores.level, threads.name) == ("ok", "threads")
    assert "takes 64 threads" in threads.text
    assert "Set --threads 4." in threads.text
    (only,) = cores_checks(dataclasses.replace(config, threads=3), cores=4, all_cores=64)
    assert only.level == "ok"


def test_the_cores_are_those_of_this_process(monkeypatch, tmp_path, config):
    from online_swav.preflight import machine

    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "_QUOTA", quota)
    allowed = len(os.sched_getaffinity(0))
    assert usable_cores() == allowed, "no container"
    quota.write_text("max 100000\n")
    assert usable_cores() == allowed
    quota.write_text("50000 100000\n")
    assert usable_cores() == 1
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "and here are 1:" in machine_checks(config)[0].text
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert machine_checks(config) == [], "a cluster has cores of its own"


def test_nobody_at_the_address_of_the_cluster_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (check,) = address_checks({"RAY_ADDRESS": address})
        assert (check.level, check.text) == ("ok", f"RAY_ADDRESS={address} answers")
        (client,) = address_checks({"RAY_ADDRESS": f"ray://{address}"})
        assert client.level == "ok"
    (check,) = address_checks({"RAY_ADDRESS": address})
    assert check.level == "refusal"
    assert f"nobody answers at RAY_ADDRESS={address}" in check.text
    assert address_checks({}) == []
    assert [check.level for check in address_checks({"RAY_ADDRESS": "auto"})] == ["ok"]


def test_a_remote_cluster_without_tokens_is_warned_of(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    remote = {"RAY_ADDRESS": "10.0.0.1:6379"}
    assert remote_ray_address(remote) == "10.0.0.1:6379"
    _, token = address_checks(remote)
    assert (token.name, token.level) == ("ray_token", "warning")
    assert "RAY_AUTH_MODE unset" in token.text
    assert len(address_checks(remote | {"RAY_AUTH_MODE": "disabled"})) == 2
    assert len(address_checks(remote | {"RAY_AUTH_MODE": "token"})) == 1


@pytest.mark.parametrize(
    ("device", "has", "level", "text"),
    [
        ("auto", {"CPU": 6}, "ok", "takes 6 CPUs (2 learners, 4 readers) of 6 on 3 nodes"),
        ("auto", {"CPU": 5}, "warning", "of 5 on 3 nodes: Ray waits until there is more"),
        ("auto", {"CPU": 6, "GPU": 1}, "warning", "2 GPUs (2 learners) of 1"),
        ("cpu", {"CPU": 6, "GPU": 1}, "ok", "of 6 on"),
        ("cuda", {"CPU": 6}, "warning", "2 GPUs (2 learners) of 0"),
    ],
)
def test_what_a_cluster_lacks_is_counted(config, device, has, level, text):
    asked = dataclasses.replace(with_actors(config, 4), learners=2, device=device)
    check = resources_check(asked, has, nodes=3)
    assert check.level == level
    assert text in check.text


# -- speed -----------------------------------------------------------------------------------------


def expect(config, reader, learner, threads=None, cores=None):
    return throughput_check(config, reader_rate=reader, learner_rate=learner, threads=threads,
                            cores=cores)  # fmt: skip


def test_the_slower_side_decides_and_waiting_is_told(config):
    two = with_actors(config, 2)
    check = expect(two, reader=500, learner=2000)
    assert check.level == "warning"
    assert "learner 2,000 images/s, readers 1,000: expect 1,000 images/s" in check.text
    assert "will wait 50% of its time. --ingest 4 would feed it" in check.text
    check = expect(two, reader=1500, learner=2000)
    assert check.level == "ok"
    assert "expect 2,000 images/s, 0.032 s per step; the learner hardly waits" in check.text


def test_readers_that_are_added_by_themselves_are_counted_on(config):
    check = expect(with_actors(config, 2, most=4), reader=500, learner=2000)
    assert check.level == "ok"
    assert "until readers are added (up to 4)" in check.text
    assert expect(with_actors(config, 2, most=3), reader=500, learner=2000).level == "warning"


def test_cores_that_both_need_are_counted_once(config):
    one = with_actors(config, 1)
    # An image takes 10 ms of a reader, and 2 x 10 ms of a learner's threads: 30 ms on 2 cores.
    check = expect(one, reader=100, learner=100, threads=2, cores=2)
    assert "expect 67 images/s" in check.text
    assert "as both share 2 cores" in check.text
    assert "expect 100 images/s" in expect(one, reader=100, learner=100, threads=2, cores=3).text


def test_ranks_learn_side_by_side(config):
    four = dataclasses.replace(with_actors(config, 8), learners=4)
    assert "learner 4,000 images/s, readers 4,000" in expect(four, reader=500, learner=1000).text


def test_forced_refusals_are_warnings_that_say_so():
    soft, final = refusal("disk", "full"), refusal("metrics_port", "held", final=True)
    assert refused([soft, final]) == [soft, final]
    forced_soft, forced_final = forced([soft, final])
    assert (forced_soft.level, forced_soft.text) == ("warning", "forced: full")
    assert forced_final == final, "the run would only fail later"
    assert force_hint([soft]) == "--force makes it start"
    assert force_hint([soft, final]) == "--force does not help with metrics port"


@pytest.mark.parametrize(
    ("used", "load", "level"),
    [(0.0, 0.5, "ok"), (0.3, 2.0, "ok"), (0.0, 2.5, "warning"), (1.0, 0.5, "warning")],
)
def test_a_busy_machine_is_warned_of(used, load, level):
    check = judge_load(used=used, load=load, cores=2)
    assert check.level == level
    assert f"other processes use {used:.1f} of 2 cores" in check.text
    assert ("measured under that load" in check.text) == (level == "warning")


def test_what_others_use_is_seen_at_once(monkeypatch):
    busy = iter([10.0, 10.6])
    monkeypatch.setattr(load, "_busy_s", lambda: next(busy))
    monkeypatch.setattr(load, "_LOOK_S", 0.3)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert "other processes use 2.0 of 4 cores" in load.load_check().text


def test_the_machine_tells_how_long_it_has_worked():
    assert load._busy_s() > 0


def test_speeds_that_are_measured_under_load_say_so():
    checks = [ok("disk", "room"), ok("reader_speed", "fast"), refusal("learner_speed", "no GPU")]
    texts = [check.text for check in load.measured_under_load(checks)]
    assert texts == ["room", "fast (measured under load)", "no GPU"]


@pytest.mark.parametrize(
    ("value", "text"), [(193.4, "193"), (2000.0, "2,000"), (9.96, "10"), (0.0321, "0.032")]
)
def test_speeds_and_times_are_short_and_never_in_powers(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("error", "level", "text"),
    [
        ("ConfigError", "refusal", "--device cuda: torch sees no GPU"),
        ("OutOfMemoryError", "refusal", "a batch of 64 does not fit this GPU (CUDA out of memory)"),
        ("NonFiniteLossError", "warning", "not finite at once"),
    ],
)
def test_a_learner_that_cannot_work_says_why(config, monkeypatch, error, level, text):
    import torch

    from online_swav.errors import ConfigError
    from online_swav.learning.nonfinite import NonFiniteLossError
    from online_swav.preflight import learner_speed

    errors = {
        "ConfigError": ConfigError("--device cuda: torch sees no GPU here"),
        "OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory\nTried to allocate"),
        "NonFiniteLossError": NonFiniteLossError("3 steps in a row"),
    }

    def fail(*_, **__):
        raise errors[error]

    monkeypatch.setattr(learner_speed, "Learner", fail)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    check, speed = learner_speed.time_learner(config)
    assert (check.level, speed) == (level, None)
    assert text in check.text


def test_a_cluster_that_cannot_be_joined_is_refused(config, monkeypatch):
    import ray

    from online_swav.preflight.ray_cluster import cluster_checks

    def fail(**_):
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    (check,) = cluster_checks(config)
    assert check.level == "refusal"
    assert "cannot join 10.0.0.1:6379: Failed to connect. Versions of Python" in check.text
