"""Can the metrics port be opened?"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

from online_swav.config import RunConfig
from online_swav.metrics_server import port_error
from online_swav.preflight.check import Check, ok, refusal
from online_swav.preflight.ray_address import remote_ray_address

PREDECESSOR_ENDS_S = 10.0
"""The actors of a killed driver live on for a moment, and hold the port."""
_LOOK_AGAIN_S = 0.2


def port_checks(config: RunConfig, *, patience_s: float = PREDECESSOR_ENDS_S) -> list[Check]:
    """Open the port and close it again.

    Args:
        config: The run.
        patience_s: How long to wait for a port that an earlier start of this run may still hold.
    """
    host, port = config.metrics.host, config.metrics.port
    if remote_ray_address(os.environ) is not None:
        return [ok("metrics_port", f"{host}:{port} will be opened by the cluster: not tried here")]
    started_before = (Path(config.run) / "status.json").exists()
    deadline = time.monotonic() + (patience_s if started_before else 0.0)
    while True:
        try:
            socket.create_server((host, port)).close()
        except (OSError, OverflowError) as error:
            held = error.args[0] == errno.EADDRINUSE
            if held and time.monotonic() < deadline:
                time.sleep(_LOOK_AGAIN_S)
                continue
            return [refusal("metrics_port", str(port_error(host, port, error)), final=True)]
        free = "any free port of" if port == 0 else f"port {port} is free on"
        return [ok("metrics_port", f"{free} {host}")]
