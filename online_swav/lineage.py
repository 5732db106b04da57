"""The archive of the book: the delta of every checkpoint of the lineage, now and then a whole copy.

    checkpoints/step-.../ledger_delta.json   of the checkpoints that are kept
    ledger_deltas/step-000000500.json        of those that were pruned
    ledger_deltas/base-step-000000500-v9.sqlite   the book at a checkpoint, of this version, so that
                                             a restore need not replay a year of deltas

Deltas name their parent: branches that were rolled back are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from online_swav.checkpoint import Checkpoint, Checkpoints, delta_path
from online_swav.errors import CheckpointError
from streams.ledger_delta import Delta

# Copies are rare while the book is small, and a restore has never more than this to replay.
LEAST_DELTA_BYTES, MOST_DELTA_BYTES = 16 * 2**20, 64 * 2**20
DELTA_SHARE = 8


@dataclass(frozen=True, slots=True)
class Base:
    """A whole copy of the book, made at a checkpoint."""

    step: int
    version: int
    """The book's version at that checkpoint: no other branch has the same at the same step."""
    path: Path


class Lineage:
    """The checkpoints that the newest one descends from.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._folder = run / "ledger_deltas"

    def walk(self, newest: Checkpoint) -> Iterator[Delta]:
        """Deltas from the newest checkpoint back to the first one.

        Raises:
            CheckpointError: When one is missing or damaged; what came before is unknown then.
        """
        delta = newest.delta()
        yield delta
        while delta.parent_step >= 0:
            path = delta_path(self._run, delta.parent_step)
            try:
                delta = Delta.from_json(path.read_text())
            except (OSError, ValueError, TypeError) as error:
                raise CheckpointError(
                    f"the book's delta of step {delta.parent_step} cannot be read ({error})",
                    path=path,
                ) from error
            yield delta

    def newest_base(self) -> Base | None:
        """The newest copy of the book, which may be of a branch that was rolled back."""
        bases = self._bases()
        if not bases:
            return None
        step, _, version = bases[-1].stem.removeprefix("base-step-").partition("-v")
        return Base(int(step), int(version or -1), bases[-1])

    def _bases(self) -> list[Path]:
        """By time, not by step: after a rollback a lower step is the newer one."""
        return sorted(self._folder.glob("base-step-*.sqlite"), key=lambda p: p.stat().st_mtime)

    def base_due(self) -> bool:
        """Whether the deltas since the newest copy have grown to a share of it."""
        base = self.newest_base()
        step, size = (base.step, base.path.stat().st_size) if base else (-1, 0)
        since = sum(
            path.stat().st_size
            for path in self._folder.glob("step-*.json")
            if int(path.stem.removeprefix("step-")) > step
        )
        return since >= min(max(size // DELTA_SHARE, LEAST_DELTA_BYTES), MOST_DELTA_BYTES)

    def base_path(self, checkpoint: Checkpoint) -> Path:
        """Where the copy of a checkpoint's book goes."""
        manifest = checkpoint.manifest
        name = f"base-step-{manifest.step:09d}-v{manifest.ledger_version}.sqlite"
        return self._folder / name

    def drop_old_bases(self) -> None:
        """Keep the newest copy alone."""
        for path in self._bases()[:-1]:
            path.unlink()


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, if there is one."""
    return Checkpoints(run, keep=1).latest()
