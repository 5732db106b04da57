"""Load an export in a fresh process that does not have this package, and compare what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from online_swav.encoder import Encoder
from online_swav.errors import OnlineSwavError

TOLERANCE = 1e-3
"""Largest error that passes, relative to the largest value. Kernels of other libraries sum in
another order, and their antialiasing rounds differently: 1e-5 to 1e-4 is usual."""
TIMEOUT_S = 600.0

_PROGRAM = """\
import json, sys
import numpy
FILE, PICTURES, OUT = sys.argv[1:]
{how_to_load}
with numpy.load(PICTURES) as pictures:
    given = [pictures[name] for name in pictures.files]
found = {{f"features{{i}}": encode(images) for i, images in enumerate(given)}}
if "scores" in globals():
    found |= {{f"scores{{i}}": scores(images) for i, images in enumerate(given)}}
numpy.savez(OUT, **found)
roots = {{name.partition(".")[0] for name in sys.modules}}
libraries = ("torch", "torchvision", "safetensors", "onnxruntime")
print(json.dumps({{
    "ours": sorted(roots & {{"online_swav", "streams"}}),
    "libraries": {{name: sys.modules[name].__version__ for name in libraries if name in roots}},
}}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBack:
    """What the fresh process found."""

    images: int
    max_abs_error: float
    """Of features."""
    max_abs_feature: float
    """The largest feature, to judge the error by."""
    max_abs_score_error: float | None
    """Of cosines to prototypes; None where the format has none."""
    libraries: dict[str, str]
    """What loaded it, and their versions."""


def random_pictures() -> list[Tensor]:
    """Eight pictures of three sizes, the same ones every time: smooth, as pictures are."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count, height, width in ((4, 224, 224), (3, 97, 160), (1, 311, 203)):
        coarse = torch.rand(count, 3, 9, 9, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
        grain = 0.1 * torch.rand(smooth.shape, generator=generator)
        parts.append(((smooth + grain).clamp(0, 1) * 255).to(torch.uint8))
    return parts


def load_back(
    file: Path, *, how_to_load: str, encoder: Encoder, pictures: Sequence[Tensor]
) -> LoadBack:
    """Features of the file, from a fresh process, against the encoder's own.

    Args:
        file: The export.
        how_to_load: Lines of Python that define `encode`, and perhaps `scores`.
        encoder: What it was made of.
        pictures: Batches of uint8 [N, 3, H, W].

    Raises:
        OnlineSwavError: If it does not load, or the difference is too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "pictures.npz", Path(folder) / "found.npz"
        arrays: dict[str, Any] = {f"batch{i}": part.numpy() for i, part in enumerate(pictures)}
        np.savez(given, **arrays)
        program = _PROGRAM.format(how_to_load=how_to_load)
        try:
            # -E -P: neither the folder nor the environment adds to what it can import.
            done = subprocess.run(
                [sys.executable, "-E", "-P", "-W", "ignore", "-c", program,
                 file.resolve(), given, found],
                capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise OnlineSwavError(f"{file} did not load within {TIMEOUT_S:.0f} s") from late
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise OnlineSwavError(f"{file} does not load in a fresh process: {lines[-1]}")
        told = json.loads(done.stdout.splitlines()[-1])
        if told["ours"]:
            raise OnlineSwavError(f"loading {file} imported {', '.join(told['ours'])}")
        with np.load(found) as answers:
            results = {name: torch.from_numpy(answers[name]) for name in answers.files}
    error = largest = 0.0
    score_error = None
    for i, batch in enumerate(pictures):
        features, scores = encoder.features_and_scores(batch)
        error = max(error, _distance(results[f"features{i}"], features, file))
        largest = max(largest, float(features.abs().max()))
        if scores is not None and f"scores{i}" in results:
            score_error = max(score_error or 0.0, _distance(results[f"scores{i}"], scores, file))
    if error > TOLERANCE * max(1.0, largest) or (score_error or 0.0) > TOLERANCE:
        raise OnlineSwavError(
            f"{file} gives other features than the encoder: they differ by up to {error:.2g}, the "
            f"largest feature is {largest:.2g}"
        )
    return LoadBack(
        images=sum(map(len, pictures)), max_abs_error=error, max_abs_feature=largest,
        max_abs_score_error=score_error, libraries=told["libraries"],
    )  # fmt: skip


def _distance(found: Tensor, own: Tensor, file: Path) -> float:
    if found.shape != own.shape:
        raise OnlineSwavError(
            f"{file} gives {list(found.shape)}, and the encoder {list(own.shape)}"
        )
    if not found.isfinite().all():
        raise OnlineSwavError(f"{file} gives values that are not finite")
    return float((found - own).abs().max())
