"""`serve`: the newest encoder of a run, over HTTP."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from online_swav.commands.signals import stop_on_signals
from online_swav.errors import ConfigError
from online_swav.serving.config import ServingConfig

LOOK_S = 2.0


def serve(arguments: list[str]) -> int:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="online-swav serve",
        description="Image bytes in, embedding out, over HTTP by Ray Serve. An encoder that the "
        "run publishes later takes the place of the one before within seconds, and no request "
        "fails for it.",
        epilog="curl --data-binary @x.jpg http://127.0.0.1:8000/embed answers with embedding, dim, "
        "step and prototype; /card tells of the encoder, /-/healthz whether the service is up. "
        "There is no password: beyond loopback put a proxy before it that asks for one.",
    )
    default = ServingConfig(place="")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR",
                        help="the run folder; also a published/step-... folder")  # fmt: skip
    parser.add_argument("--host", default=default.host,
                        help="address to listen on (default: %(default)s)")  # fmt: skip
    parser.add_argument("--port", type=int, default=default.port, help="(default: %(default)s)")
    parser.add_argument("--max-bytes", type=int, default=default.max_bytes, metavar="N",
                        help="largest picture accepted, in encoded bytes "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--replicas", type=int, default=default.replicas, metavar="N",
                        help="processes that encode, each on one core "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-batch", type=int, default=default.max_batch, metavar="N",
                        help="pictures that go through the network together at most "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch-wait-s", type=float, default=default.batch_wait_s, metavar="S",
                        help="how long the first picture of a batch waits for others "
                        "(default: %(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        config = ServingConfig(
            place=str(options.run.resolve()), host=options.host, port=options.port,
            max_bytes=options.max_bytes, replicas=options.replicas, max_batch=options.max_batch,
            batch_wait_s=options.batch_wait_s,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return _run(config)


def _run(config: ServingConfig) -> int:
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"Ray Serve is not installed here ({error}); pip install 'online-swav[serve]'"
        ) from error
    from online_swav.serving.hot_encoder import HotEncoder

    name = HotEncoder(config.place).current.name  # what is wrong with it is said here, in words
    if not config.on_loopback:
        print(
            f"online-swav serve: warning: {config.host} is not loopback: everyone who reaches "
            "this machine may use the service; there is no password", file=sys.stderr,
        )  # fmt: skip
    from online_swav.serving.service import service

    with service(config) as state:
        stop = threading.Event()
        stop_on_signals(stop)
        print(f"serving {name} on {config.url} (Ctrl-C ends it)", flush=True)
        print(f"  curl --data-binary @x.jpg {config.url}/embed", flush=True)
        at, trouble = 0.0, None
        while not stop.wait(LOOK_S):
            try:
                told = state()
            except TimeoutError:  # busy, requests come first; or a replica is starting again
                continue
            if told["name"] != name and told["at"] > at:
                name, at = told["name"], told["at"]
                print(f"now serving {name}", flush=True)
            if told["trouble"] not in (None, trouble):
                print(f"online-swav serve: the newest encoder is not taken, {name} goes on: "
                      f"{told['trouble']}", file=sys.stderr)  # fmt: skip
            trouble = told["trouble"]
        print("stopping", flush=True)
    return 0
