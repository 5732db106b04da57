"""Is the run folder there for us? `train` finds out by itself; `doctor` only looks."""

from __future__ import annotations

import os
from pathlib import Path

from online_swav.config import RunConfig
from online_swav.preflight.check import Check, ok, refusal
from online_swav.preflight.disk import existing_folder
from online_swav.run_lock import holder


def folder_check(config: RunConfig) -> Check:
    """New, to be resumed, in use, or not writable."""
    run = Path(config.run)
    nearest = existing_folder(run)
    file = next((path for path in (run, *run.parents) if path.exists()), nearest)
    if file != nearest:
        return refusal("run_folder", f"{file} is a file, and no folder can be made there: give "
                       "another --run", final=True)  # fmt: skip
    if not os.access(nearest, os.W_OK | os.X_OK):
        return refusal("run_folder", f"{nearest} cannot be written: fix the permissions, or give "
                       "another --run", final=True)  # fmt: skip
    if nearest != run:
        return ok("run_folder", f"{run} will be made")
    process = holder(run)
    if process is not None:
        return refusal("run_folder", f"{run} is in use by process {process}: `online-swav status` "
                       "says what it does. Stop it first, or give another --run.",
                       final=True)  # fmt: skip
    latest = run / "checkpoints" / "latest"
    if latest.exists():
        name = latest.read_text().strip()
        return ok("run_folder", f"{run} will be resumed from {name}")
    return ok("run_folder", f"{run} begins at step 0")
