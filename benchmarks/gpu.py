"""Every measurement that needs a GPU, in commands of some minutes each.

    python benchmarks/gpu.py --images DIR --official path/to/swav --out benchmarks/results/gpu \
        --minutes 9

DIR holds Imagenette as `train-*.tar` and `val-*.tar`. A part whose JSON is in the folder `--out` is
done; no part is started for which too few minutes are left. Exit code 75 means: run the same
command again, on the same machine (a part that was begun keeps its state in `--work`). 1: a part
failed.

It needs no Ray and no installation. On a machine with torch, torchvision, numpy and pillow only,
bring these wheels (`pip install --no-deps`): opencv-python-headless, simplejpeg, webdataset,
braceexpand, jaxtyping, wadler-lindig, pydantic, pydantic-core, annotated-types, typing-inspection,
pyyaml, rich, markdown-it-py, mdurl, pygments, psutil; then, in the repository's root, call it with
`PYTHONPATH=.` in the environment. `--toy` runs every part at a tiny size, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
RESERVE_MINUTES = 0.5
"""For a part to end in order, and for us."""


@dataclass(frozen=True)
class Part:
    """One measurement: a script beside this one."""

    name: str
    options: tuple[str, ...]
    minutes: float
    """It is not started with fewer left."""
    resumes: bool = False
    """Takes `--minutes` and goes on where it stopped."""


def parts(options: argparse.Namespace) -> list[Part]:
    """All of them, in order."""
    toy = options.toy
    official = () if options.official is None else ("--official", str(options.official))
    device = ("--device", options.device)
    small = ("--preset", "demo", "--passes", "2", "--batch-size", "16", "--readers", "2")
    return [
        Part("step", ("--setting", "toy" if toy else "gpu", *device, *official),
             minutes=1 if toy else 4),
        Part("sinkhorn", ("--sizes", "toy" if toy else "full", *device, *official),
             minutes=1 if toy else 3),
        Part("imagenette", ("--images", str(options.images), "--run",
                            str(options.work / "imagenette"), *device, *(small if toy else ())),
             minutes=1 if toy else 2, resumes=True),
    ]  # fmt: skip


def run_part(part: Part, out: Path, minutes: float) -> bool:
    """Whether the part is done now; False when it wants another command.

    Raises:
        subprocess.CalledProcessError: If it failed.
    """
    command = [sys.executable, str(HERE / f"{part.name}.py"), *part.options, "--out", str(out)]
    if part.resumes:
        command += ["--minutes", str(minutes - RESERVE_MINUTES)]
    try:
        code = subprocess.run(command, check=False, timeout=60 * minutes).returncode
    except subprocess.TimeoutExpired:
        return False
    if code not in (0, os.EX_TEMPFAIL):
        raise subprocess.CalledProcessError(code, command)
    return code == 0


def main() -> int:
    """Parse, run what is left; 0 when all is done, 75 when not, 1 when a part failed."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of train- and val- tars")
    parser.add_argument("--official", type=Path, help="checkout of facebookresearch/swav")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu-benchmark"),
                        help="folder for what parts keep between commands")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=9.0, help="of this command")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="every part at a tiny size")
    options = parser.parse_args()
    for name in ("train", "val"):
        if not list(options.images.glob(f"{name}-*.tar")):
            parser.exit(2, f"gpu.py: there is no {name}-*.tar in {options.images}\n")
    if options.official is not None and not options.official.is_dir():
        parser.exit(2, f"gpu.py: --official: there is no folder {options.official}\n")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "gpu.py: --device cuda: torch sees no GPU here\n")
    left: list[str] = []
    failed = False
    for part in parts(options):
        out = options.out / f"{part.name}.json"
        if out.exists():
            print(f"{part.name}: done before", flush=True)
            continue
        minutes = options.minutes - (time.monotonic() - begun) / 60
        if minutes < part.minutes:
            left.append(part.name)
            continue
        print(f"{part.name}: begins, {minutes:.1f} minutes left", flush=True)
        try:
            done = run_part(part, out, minutes)
        except subprocess.CalledProcessError as error:
            print(f"{part.name}: failed, exit code {error.returncode}", flush=True)
            failed = True
            continue
        print(f"{part.name}: {'done' if done else 'not finished'}", flush=True)
        if not done:
            left.append(part.name)
    if left:
        print(f"left: {', '.join(left)}; run the same command again")
    if failed:
        return 1
    return os.EX_TEMPFAIL if left else 0


if __name__ == "__main__":
    sys.exit(main())
