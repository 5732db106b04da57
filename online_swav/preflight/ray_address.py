"""Which Ray cluster a run joins, as far as the environment says. Imports no Ray."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from online_swav.preflight.check import Check, ok, refusal, warning

CONNECT_S = 0.3
_HERE = ("127.0.0.1", "localhost", "::1", "auto", "local")


def ray_address(environment: Mapping[str, str]) -> str | None:
    """RAY_ADDRESS; None when the run starts a Ray of its own on this machine."""
    return environment.get("RAY_ADDRESS")


def remote_ray_address(environment: Mapping[str, str]) -> str | None:
    """The same if it is of another machine."""
    address = ray_address(environment)
    return None if address is None or _host_and_port(address)[0] in _HERE else address


def address_checks(environment: Mapping[str, str]) -> list[Check]:
    """Does somebody answer at RAY_ADDRESS, and is the cluster closed to strangers?"""
    address = ray_address(environment)
    if address is None:
        return []
    checks = [_reachable(address)]
    remote = remote_ray_address(environment) is not None
    if remote and environment.get("RAY_AUTH_MODE", "").lower() != "token":
        mode = environment.get("RAY_AUTH_MODE", "unset")
        checks.append(
            warning(
                "ray_token",
                f"RAY_ADDRESS={address} with RAY_AUTH_MODE {mode}: without tokens whoever reaches "
                "the cluster runs code on it. Set RAY_AUTH_MODE=token on every machine, and the "
                "token in RAY_AUTH_TOKEN_PATH (`ray get-auth-token --generate`).",
            )
        )
    return checks


def _reachable(address: str) -> Check:
    host, port = _host_and_port(address)
    if port is None:
        return ok("ray_address", f"RAY_ADDRESS={address}")
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except TimeoutError:
        return warning("ray_address", f"RAY_ADDRESS={address} did not answer within {CONNECT_S} s")
    except OSError as error:
        return refusal(
            "ray_address",
            f"nobody answers at RAY_ADDRESS={address} ({error.strerror or error}). Start the "
            "cluster (`ray start --head`), correct the address, or unset it for a Ray on this "
            "machine.",
            final=True,
        )
    return ok("ray_address", f"RAY_ADDRESS={address} answers")


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Of `host:port` or `ray://host:port`; no port in `auto` and `local`."""
    place = address.rpartition("://")[2]
    host, colon, port = place.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (place, None)
