"""Checkpoints: a folder that exists only when whole; the commit of weights and book together.

    checkpoints/
      latest                    name of the newest checkpoint
      generation                the learner generation that may publish here
      step-000000500/
        learner.pt              weights, optimizer, queue, schedule, RNG; loads with `weights_only`
        ledger_delta.json       what the book learned since the checkpoint before
        config.yaml
        manifest.json           format, step, samples, parent, probes, SHA-256 and size of each file

Everything is written into a hidden folder, made durable and renamed into place; `latest` moves
last. A checkpoint whose hashes fail is set aside as `damaged-...` and the one before is taken.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from online_swav.durable import sync
from online_swav.errors import CheckpointError, SupersededError
from streams.ledger_delta import Delta

logger = logging.getLogger(__name__)

FORMAT = 3
LOCK_S = 60.0
COLLAPSE_FINDING = "embedding_collapse"
HEALTHY_KEPT_S = 86_400.0
"""How long the newest healthy checkpoint outlives `keep` unhealthy ones: the book cannot fold what
may be rolled back."""
_FENCE = "generation"
_LEARNER, _DELTA, _CONFIG, _MANIFEST = (
    "learner.pt", "ledger_delta.json", "config.yaml", "manifest.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself."""

    format: int
    step: int
    """Completed optimizer updates."""
    samples_seen: int
    """Images in these updates."""
    parent_step: int
    """Step of the checkpoint before in the lineage; -1 for the first."""
    ledger_version: int
    """Version of the book at this point; the next delta starts here."""
    probes: tuple[dict[str, float], ...]
    """Results of the labelled probe in this lineage, oldest first."""
    created_at: float
    """Unix seconds."""
    verdict: str
    """Health of the representation when the checkpoint was made."""
    findings: tuple[str, ...]
    """Names of the findings then."""
    files: dict[str, dict[str, Any]]
    """Name -> size_bytes and sha256."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    manifest: Manifest

    def learner_state(self) -> dict[str, Any]:
        """The learner's state, on the CPU."""
        state: dict[str, Any] = torch.load(
            self.path / _LEARNER, map_location="cpu", weights_only=True
        )
        return state

    def delta(self) -> Delta:
        """The book's delta."""
        return Delta.from_json((self.path / _DELTA).read_text())

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size_bytes"]) for entry in self.manifest.files.values())


def delta_path(run: Path, step: int) -> Path:
    """Where the delta of a published checkpoint is: in it, or apart once it was pruned."""
    kept = run / "checkpoints" / f"step-{step:09d}" / _DELTA
    return kept if kept.exists() else run / "ledger_deltas" / f"step-{step:09d}.json"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: The run folder.
        keep: Newest checkpoints that stay; the deltas of older ones move to `ledger_deltas/`.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self.folder = run / "checkpoints"
        self.deltas = run / "ledger_deltas"
        self._keep = keep

    def publish(
        self,
        *,
        step: int,
        samples_seen: int,
        parent_step: int,
        created_at: float,
        verdict: str,
        findings: tuple[str, ...] = (),
        probes: tuple[dict[str, float], ...],
        learner_state: Mapping[str, Any],
        delta: Delta,
        config_yaml: str,
        generation: int,
        on_rename: Callable[[], None] = lambda: None,
    ) -> Checkpoint:
        """Write a checkpoint and make it the latest.

        Args, beside what goes into the manifest and the files:
            generation: The learner's; another one in the folder's fence means that it is over.
            on_rename: Called between the rename into place and the move of `latest`.

        Raises:
            SupersededError: If a newer generation works in this folder; nothing was changed.
            CheckpointError: If the disk refuses (full, read-only); nothing half-written is left.
        """
        name = f"step-{step:09d}"
        staging = self.folder / f".{name}"
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            _save(dict(learner_state), staging / _LEARNER)
            (staging / _DELTA).write_text(delta.to_json())
            (staging / _CONFIG).write_text(config_yaml)
            manifest = Manifest(
                format=FORMAT, step=step, samples_seen=samples_seen, parent_step=parent_step,
                ledger_version=delta.version, probes=probes, created_at=created_at,
                verdict=verdict, findings=findings,
                files={part: _describe(staging / part) for part in (_LEARNER, _DELTA, _CONFIG)},
            )  # fmt: skip
            text = json.dumps(dataclasses.asdict(manifest), indent=1)
            (staging / _MANIFEST).write_text(text)
            for part in (*manifest.files, _MANIFEST):
                sync(staging / part)
            sync(staging)
            target = self.folder / name
            with self._lock():
                if self._generation() != generation:
                    shutil.rmtree(staging)
                    raise SupersededError(
                        f"generation {generation} is over, {self.folder} belongs to generation "
                        f"{self._generation()}; the checkpoint of step {step} is not published"
                    )
                if target.exists():  # left by an abandoned branch of the lineage
                    shutil.rmtree(target)
                staging.rename(target)
                sync(self.folder)
                on_rename()
                self._point(name)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(
                f"cannot write checkpoint {self.folder / name}: {error.strerror or error}. "
                "Make room or fix the permissions and start the same command again: the run "
                "resumes from the checkpoint before.",
                path=self.folder / name,
            ) from error
        return Checkpoint(target, manifest)

    def fence(self, generation: int, *, resumed: Checkpoint | None) -> None:
        """From now on only `generation` publishes here.

        Raises:
            SupersededError: If the newest checkpoint is no longer the one that was resumed from.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            newest = self.latest()
            if (newest and newest.manifest) != (resumed and resumed.manifest):
                raise SupersededError(
                    f"{self.folder} got another checkpoint while this learner was starting"
                )
            staging = self.folder / ".generation.new"
            staging.write_text(f"{generation}\n")
            sync(staging)
            staging.replace(self.folder / _FENCE)

    def _generation(self) -> int | None:
        try:
            return int((self.folder / _FENCE).read_text())
        except (OSError, ValueError):
            return None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The moment of publishing is exclusive: rename and pointer, nothing slow."""
        with (self.folder / ".lock").open("a") as file:
            deadline = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise CheckpointError(
                            f"another learner has held {self.folder} for {LOCK_S:.0f} s, in the "
                            "middle of publishing; end that process and start again",
                            path=self.folder,
                        ) from None
                    time.sleep(0.1)
            yield

    def prune(self) -> int:
        """Drop checkpoints beyond `keep`, keeping their deltas; the oldest step still there.

        The newest healthy one stays for a day more: a collapsed run goes back to it.
        """
        steps = self._steps()
        healthy = self._newest_healthy(steps)
        for step in steps[: -self._keep]:
            if step == healthy:
                continue
            folder = self.folder / f"step-{step:09d}"
            self.deltas.mkdir(exist_ok=True)
            if (folder / _DELTA).exists():
                # Copied, not moved: the folder of checkpoints may be a disk of its own.
                staging = self.deltas / f".step-{step:09d}.json"
                shutil.copyfile(folder / _DELTA, staging)
                sync(staging)
                staging.replace(self.deltas / f"step-{step:09d}.json")
            shutil.rmtree(folder)
        return self.oldest_step()

    def _newest_healthy(self, steps: list[int]) -> int | None:
        for step in reversed(steps):
            try:
                raw = json.loads((self.folder / f"step-{step:09d}" / _MANIFEST).read_text())
            except (OSError, ValueError):
                continue
            if raw.get("verdict") == "ok":
                young = time.time() - float(raw.get("created_at", 0)) < HEALTHY_KEPT_S
                return step if young else None
        return None

    def refuge(self, *, below: int | None = None) -> Checkpoint | None:
        """The checkpoint to go back to: the newest healthy one, else the newest not collapsed.

        Collapsed are also those with its signs at the very start, where they are not called so.

        Args:
            below: Only from before this step, if there is one: the last try began there.
        """
        whole = [
            c for c in self.whole()
            if c.manifest.verdict != "collapsed" and COLLAPSE_FINDING not in c.manifest.findings
        ]  # fmt: skip
        earlier = [c for c in whole if below is not None and c.manifest.step < below] or whole
        healthy = [c for c in earlier if c.manifest.verdict == "ok"] or earlier
        return healthy[-1] if healthy else None

    def go_back(self, to: Checkpoint, *, generation: int) -> None:
        """Make `to` the newest checkpoint again; `recover` then drops those after it.

        Raises:
            SupersededError: If a newer generation works in this folder.
        """
        with self._lock():
            if self._generation() != generation:
                raise SupersededError(f"generation {generation} is over")
            for copy in self.deltas.glob("base-step-*.sqlite"):
                if int(copy.stem.removeprefix("base-step-").partition("-v")[0]) > to.manifest.step:
                    copy.unlink()
            self._point(to.path.name)

    def require(self, generation: int) -> None:
        """See that `generation` still owns this folder.

        Raises:
            SupersededError: If a newer one works in it.
        """
        if self._generation() != generation:
            raise SupersededError(f"generation {generation} is over")

    def oldest_step(self) -> int:
        """Step of the oldest checkpoint on disk: no run resumes from before; -1 without one."""
        return min(self._steps(), default=-1)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None in a new run. Changes nothing on disk.

        Raises:
            CheckpointError: If there are checkpoints and none is whole.
        """
        committed = self._committed_steps()
        newest = ""
        for step in reversed(committed):
            try:
                return self.load(self.folder / f"step-{step:09d}")
            except CheckpointError as error:
                logger.error("checkpoint_damaged error=%r", str(error))
                newest = newest or str(error)
        if committed:
            raise CheckpointError(
                f"none of the {len(committed)} checkpoints in {self.folder} can be used: "
                f"{newest}. Restore one from a backup, or begin anew in another run folder.",
                path=self.folder,
            )
        return None

    def newest_unproven(self) -> tuple[Path, float] | None:
        """Place and time (unix seconds) of the newest one, by its manifest alone: quick."""
        for step in reversed(self._committed_steps()):
            path = self.folder / f"step-{step:09d}"
            try:
                return path, float(json.loads((path / _MANIFEST).read_text())["created_at"])
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return None

    def whole(self) -> list[Checkpoint]:
        """Every committed checkpoint on disk that is whole, oldest first."""
        found = []
        for step in self._committed_steps():
            try:
                found.append(self.load(self.folder / f"step-{step:09d}"))
            except CheckpointError as error:
                logger.error("checkpoint_damaged error=%r", str(error))
        return found

    def recover(self) -> None:
        """Before a start: set damaged checkpoints aside, drop those that never became the latest.

        Raises:
            CheckpointError: If there are checkpoints and none is whole.
        """
        newest = self.latest()
        committed = self._committed_steps()
        for step in self._steps():
            path = self.folder / f"step-{step:09d}"
            if step not in committed:
                shutil.rmtree(path)
            elif newest is not None and step > newest.manifest.step:
                aside = self.folder / f"damaged-{path.name}"
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                logger.error("checkpoint_set_aside as=%s resuming_from_step=%d",
                             aside, newest.manifest.step)  # fmt: skip
        if newest is not None:
            self._point(newest.path.name)

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """The checkpoint in `path`, every file proven by its hash.

        Raises:
            CheckpointError: If a file is missing or differs, or the format is another one.
        """
        try:
            raw = json.loads((path / _MANIFEST).read_text())
            if raw.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is of another version: format {raw.get('format')}, and this one reads "
                    f"format {FORMAT}",
                    path=path,
                )
            lists = {name: tuple(raw[name]) for name in ("probes", "findings")}
            manifest = Manifest(**{**raw, **lists})
            for name, expected in manifest.files.items():
                if _describe(path / name) != expected:
                    raise CheckpointError(
                        f"{path / name} does not have the hash of its manifest", path=path
                    )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} is not a whole checkpoint: {error}", path=path
            ) from error
        return Checkpoint(path, manifest)

    def _committed_steps(self) -> list[int]:
        """Steps up to the one that `latest` names; all of them when the name is lost."""
        steps = self._steps()
        try:
            name = (self.folder / "latest").read_text().strip()
            pointed = int(name.removeprefix("step-"))
        except (OSError, ValueError):
            return steps
        # A pointer to a folder that is gone says nothing about the others.
        return [step for step in steps if step <= pointed] or steps

    def _steps(self) -> list[int]:
        folders = self.folder.glob("step-*") if self.folder.exists() else ()
        return sorted(int(path.name.removeprefix("step-")) for path in folders)

    def _point(self, name: str) -> None:
        staging = self.folder / ".latest"
        staging.write_text(name + "\n")
        sync(staging)
        staging.replace(self.folder / "latest")
        sync(self.folder)


def _save(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, whose writer says RuntimeError when the disk refuses."""
    try:
        torch.save(state, path)
    except RuntimeError as error:
        free = shutil.disk_usage(path.parent).free
        why = str(error).splitlines()[0]
        raise OSError(errno.EIO, f"{free} bytes are free there ({why})") from error


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size_bytes": path.stat().st_size, "sha256": digest}
