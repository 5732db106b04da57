"""What the run could not use. Names and bytes in it are taken for hostile."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from online_swav.config import RunConfig
from online_swav.errors import ConfigError
from online_swav.lineage_queries import shards_with_fault
from online_swav.report.samples import decode_small
from online_swav.report.thumbnails import THUMBNAIL_PX, jpeg, uri
from online_swav.wording import plain_name, shortened
from streams.config import LimitsConfig
from streams.errors import LedgerError
from streams.quarantine_review import QuarantinedSample, QuarantineReview

SHOWN_SAMPLES, SHOWN_SHARDS = 36, 20
KEY, DETAIL = 60, 240
"""Most characters of a key, and of what is said of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A sample and why it was not used."""

    uri: str | None
    """Its picture; None where it does not decode."""
    key: str
    reason: str
    detail: str
    place: str
    """Name of its shard and its index there."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineView:
    """What waits for a decision."""

    samples: tuple[Rejected, ...] = ()
    """The newest."""
    more: int = 0
    """How many others there are."""
    reasons: str = ""
    """Number by reason."""
    shards: tuple[tuple[str, str], ...] = ()
    """Name and fault of damaged and unreadable shards."""
    more_shards: int = 0
    missing: str = ""
    """Why there is nothing, in a sentence."""


def quarantine_view(run: Path, config: RunConfig, *, with_images: bool) -> QuarantineView:
    """The quarantine of a run."""
    folder = run / "quarantine"
    try:
        waiting = QuarantineReview(folder).waiting()
    except (OSError, ValueError, TypeError, KeyError) as error:
        return QuarantineView(missing=f"The quarantine's lists cannot be read: {error}")
    try:
        faulty = [shard for shard in shards_with_fault(run) if not shard.ruled_out]
    except (ConfigError, LedgerError):
        faulty = []
    if not waiting and not faulty:
        return QuarantineView(missing="Nothing is in quarantine. Images that do not decode, and "
                              "shards that cannot be read, would be here.")  # fmt: skip
    newest = sorted(waiting, key=lambda sample: -sample.at)[:SHOWN_SAMPLES]
    # A picture that was too small to train on can still be looked at.
    limits = dataclasses.replace(config.ingest.limits, min_side=1)
    counts = Counter(sample.reason for sample in waiting)
    return QuarantineView(
        samples=tuple(_rejected(folder, s, limits, with_images=with_images) for s in newest),
        more=len(waiting) - len(newest),
        reasons=", ".join(f"{n:,} {plain_name(reason)}" for reason, n in counts.most_common()),
        shards=tuple((Path(s.url).name, s.fault or "") for s in faulty[:SHOWN_SHARDS]),
        more_shards=max(len(faulty) - SHOWN_SHARDS, 0),
    )


def _rejected(
    folder: Path, sample: QuarantinedSample, limits: LimitsConfig, *, with_images: bool
) -> Rejected:
    data = _copy(folder, sample.copy, limits) if with_images else None
    pixels = decode_small(data, limits, side=THUMBNAIL_PX) if data is not None else None
    return Rejected(
        uri=None if pixels is None else uri(jpeg(Image.fromarray(pixels), THUMBNAIL_PX)),
        key=shortened(sample.key, KEY), reason=sample.reason,
        detail=shortened(sample.detail, DETAIL), source=sample.source,
        place=f"{Path(sample.url).name}, index {sample.index:,}",
    )  # fmt: skip


def _copy(folder: Path, name: str | None, limits: LimitsConfig) -> bytes | None:
    """The bytes of a copy; only of a plain file in the folder itself."""
    if not name or Path(name).name != name:
        return None
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            return None
        if path.stat().st_size > limits.max_member_bytes:
            return None
        return path.read_bytes()
    except (OSError, ValueError):
        return None
