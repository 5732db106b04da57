"""Options of the stream, with their units. Imports nothing, so that a command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """How places are watched for new shards."""

    poll_s: float = 2.0
    """Seconds between two listings of a source."""
    settle_s: float = 20.0
    """Seconds a tar without its closing blocks must stay unchanged before it is taken as it is."""

    def __post_init__(self) -> None:
        if self.poll_s <= 0:
            raise ValueError(f"poll_s must be positive, got {self.poll_s}")
        if self.settle_s < 0:
            raise ValueError(f"settle_s must not be negative, got {self.settle_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """How much of a source may be bad before it is paused; the other sources go on."""

    max_bad_share: float = 0.2
    """Largest share of unusable samples among the last `window` of a source; 1 never pauses."""
    window: int = 2000
    """Samples over which the share is taken. A shard that cannot be read counts as a mean one."""
    min_samples: int = 200
    """Samples before a first verdict, and in each trial of a paused source."""
    retry_s: float = 600.0
    """Seconds until a paused source is tried again, with shards of about `min_samples` samples."""

    def __post_init__(self) -> None:
        if not 0 < self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share must lie in (0, 1], got {self.max_bad_share}")
        if not 1 <= self.min_samples <= self.window:
            raise ValueError(
                f"min_samples must lie in 1..window, got {self.min_samples} and {self.window}"
            )
        if self.retry_s <= 0:
            raise ValueError(f"retry_s must be positive, got {self.retry_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Caps on everything that comes from outside."""

    max_member_bytes: int = 64 * 2**20
    """Largest tar member that is read, in bytes."""
    max_pixels: int = 64_000_000
    """Largest picture that is decoded, in pixels."""
    min_side: int = 8
    """Shortest side of a usable picture, in pixels."""

    def __post_init__(self) -> None:
        for name in ("max_member_bytes", "max_pixels", "min_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CropFamily:
    """Crops of one size. The first family holds the two views that get codes."""

    size: int
    """Side of the square crop, in pixels."""
    num: int
    """Crops of this family per image."""
    scale: tuple[float, float]
    """Share of the image's area that a crop may cover, smallest and largest."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.num < 1:
            raise ValueError(f"size and num must be at least 1, got {self.size} and {self.num}")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale must satisfy 0 < low <= high <= 1, got {low} and {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How shards become batches."""

    actors: int = 1
    """Ingest actors, each with one core; with `max_actors` the fewest."""
    max_actors: int | None = None
    """Most ingest actors: they are added while the learner waits; None keeps `actors`."""
    batch_size: int = 64
    """Images per batch and learner rank."""
    open_shards: int = 4
    """Shards that one actor reads in turn, so that a batch mixes them."""
    window: int = 512
    """Images shuffled together, per actor; encoded bytes are held, not pictures."""
    window_bytes: int = 512 * 2**20
    """Encoded bytes from which on fewer images are shuffled together, per actor."""
    in_flight: int = 2
    """Batches requested ahead from each actor."""
    lease_s: float = 60.0
    """Seconds after which the shards of a silent actor go to another one."""
    max_attempts: int = 3
    """Readers a shard may kill before it is quarantined."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Caps on members and pictures."""

    def __post_init__(self) -> None:
        for name in ("actors", "batch_size", "open_shards", "window", "window_bytes", "in_flight",
                     "max_attempts"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(
                f"max_actors must be at least actors, got {self.max_actors} and {self.actors}"
            )
        if self.lease_s <= 0:
            raise ValueError(f"lease_s must be positive, got {self.lease_s}")
