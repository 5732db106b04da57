"""Ray wiring of the service: a Ray of its own on this machine, Serve's proxy, the replicas."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from online_swav.errors import ConfigError, RunFailed
from online_swav.serving.config import ServingConfig
from online_swav.serving.server import EmbeddingServer

NAME = "encoder"
WAITING_BATCHES = 4
"""Full batches' worth of requests at one replica; and as many again wait before it, per replica.
Beyond that a request is refused (503). Ray's proxy holds the bodies of those that wait."""
_STATE_S = 10.0
_REQUEST_S = 60.0
"""After which a request is ended (408): else slow uploads could hold every place for good."""

State = Callable[[], dict[str, Any]]


class Replica(EmbeddingServer):
    """A process of the service."""

    def __init__(self, config: ServingConfig) -> None:
        batched: Any = serve.batch(
            max_batch_size=config.max_batch, batch_wait_timeout_s=config.batch_wait_s
        )
        super().__init__(config, batched=batched)


@contextmanager
def service(config: ServingConfig) -> Iterator[State]:
    """A running service; yields how to ask for its state (see `EmbeddingServer.state`).

    Raises:
        ConfigError: If the port cannot be opened.
        RunFailed: If Ray, or Ray Serve, cannot start.
    """
    _try_port(config)
    # As for a run: a waiting thread must not spin, and Ray's workers must not be nice.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_worker_niceness", "0")
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # "local": whatever RAY_ADDRESS says, and other Serve applications of a cluster stay alone.
    try:
        ray.init(
            address="local", num_cpus=max(os.cpu_count() or 1, config.replicas),
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise RunFailed(f"Ray cannot start here: {error}") from error
    try:
        handle = _start(config)
        yield lambda: _ask(handle)
    finally:
        # Begun requests are finished. Not `serve.shutdown`: its controller's last words are errors.
        with suppress(TimeoutError, RayServeException, RayError):  # the first error is the story
            serve.delete(NAME)
        ray.shutdown()


def _ask(handle: Any) -> dict[str, Any]:
    """The state of a replica; TimeoutError also while there is none, as Serve starts another."""
    try:
        state: dict[str, Any] = handle.state.remote().result(timeout_s=_STATE_S)
    except (RayServeException, RayError) as error:
        raise TimeoutError(str(error)) from error
    return state


def _start(config: ServingConfig) -> Any:
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    waiting = WAITING_BATCHES * config.max_batch
    deployment = serve.deployment(
        name=NAME, num_replicas=config.replicas, max_ongoing_requests=waiting,
        max_queued_requests=waiting * config.replicas, ray_actor_options={"num_cpus": 1},
    )(Replica)  # fmt: skip
    try:
        serve.start(
            proxy_location="HeadOnly", logging_config=quiet,
            http_options={
                "host": config.host, "port": config.port, "request_timeout_s": _REQUEST_S,
            },
        )  # fmt: skip
        return serve.run(deployment.bind(config), name=NAME, logging_config=quiet)
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise RunFailed(f"Ray Serve could not start the encoder: {error}") from error


def _try_port(config: ServingConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        socket.create_server((config.host, config.port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror or error}); give "
            "another --port, or an address of this machine as --host"
        ) from error
