"""What a service is told. Imports neither torch nor Ray, so that help is quick."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """A service of one encoder."""

    place: str
    """Run folder, whose newest encoder is served; or whatever else `Encoder.load` takes."""
    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback everyone who reaches it may use it."""
    port: int = 8000
    """TCP port."""
    max_bytes: int = 10_000_000
    """Largest picture that is accepted, in encoded bytes."""
    replicas: int = 1
    """Processes that encode, each on one core."""
    max_batch: int = 32
    """Pictures that go through the network together at most."""
    batch_wait_s: float = 0.01
    """How long the first picture of a batch waits for others, in seconds."""
    reload_every_s: float = 2.0
    """Seconds between two looks for a newer encoder."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port must lie in 1..65535, got {self.port}")
        for name in ("max_bytes", "replicas", "max_batch"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.batch_wait_s <= 60:
            raise ValueError(f"--batch-wait-s must lie in 0..60, got {self.batch_wait_s}")
        if self.reload_every_s <= 0:
            raise ValueError(f"reload_every_s must be positive, got {self.reload_every_s}")

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
