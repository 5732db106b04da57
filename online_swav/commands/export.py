"""`export`: the encoder of a run in the formats of others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.commands.options import run_folder
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = {
    "torchvision": ".pth: state dict, strict=True into the plain constructor (classifier: zeros)",
    "safetensors": ".safetensors: the trunk without a classifier, the card in its metadata",
    "onnx": ".onnx: preprocessing and trunk, uint8 pictures in; needs the extra online-swav[onnx]",
    "torch-export": ".pt2: preprocessing and trunk for torch.export.load",
    "official": ".pth.tar: as facebookresearch/swav, with projection head and prototypes",
}
MOST_PICTURES = 64


def export(arguments: list[str]) -> int:
    """Write an encoder in another format, and prove it."""
    listed = "\n".join(f"  {name:<14}{what}" for name, what in FORMATS.items())
    parser = argparse.ArgumentParser(
        prog="online-swav export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Take the encoder of a run out, with its preprocessing.\n\nThe file is loaded "
        "back in a fresh process that does not import this package, and its\nfeatures are compared "
        "with the encoder's. FILE.card.json says what it is, how it is loaded,\nand how large the "
        "difference was.",
        epilog=f"formats:\n{listed}",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="see below")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where it goes")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="of this checkpoint "
                        "(default: the newest healthy encoder, in published/; before the first, "
                        "the newest checkpoint)")  # fmt: skip
    parser.add_argument("--check-images", nargs="+", type=Path, metavar="PATH", help="images, or "
                        f"folders of images, to compare on, {MOST_PICTURES} at most (default: "
                        "random pictures, the same ones every time)")  # fmt: skip
    options = parser.parse_args(arguments)
    run = run_folder(options.run)
    source = run if options.checkpoint is None else _checkpoint_folder(run, options.checkpoint)
    places = _image_files(options.check_images) if options.check_images else []
    from online_swav.encoder import Encoder
    from online_swav.export.formats import FORMATS as WRITERS
    from online_swav.export.load_back import random_pictures
    from online_swav.export.write import export_encoder, require_writable
    from online_swav.wording import size

    require_writable(WRITERS[options.format], options.out)
    pictures = _pictures(places) if places else random_pictures()
    encoder = Encoder.load(source)
    done = export_encoder(encoder, WRITERS[options.format], options.out, pictures=pictures)
    check, side = done.check, encoder.card["preprocessing"]["size"]
    of = f"{check.images} {'images' if places else 'random pictures'}"
    with_what = ", ".join(f"{name} {number}" for name, number in check.libraries.items())
    print(f"{encoder.name}: {encoder.feature_dim} features of {side} px pictures, {encoder.place}")
    print(f"wrote {done.out} ({size(done.size_bytes)}) and {done.card.name}")
    for note in done.notes:
        print(f"  {note}")
    print(f"loaded back in a fresh process ({with_what}), {of}:")
    print(f"  features differ by {check.max_abs_error:.2g} at most; the largest is "
          f"{check.max_abs_feature:.3g}")  # fmt: skip
    if check.max_abs_score_error is not None:
        print(f"  cosines to the prototypes differ by {check.max_abs_score_error:.2g} at most")
    print(f'\nhow to load it (images: uint8 NumPy [N, 3, H, W]):\n\n    FILE = "{done.out}"')
    print("\n".join(f"    {line}".rstrip() for line in done.how_to_load.splitlines()))
    return 0


def _checkpoint_folder(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step-{step:09d}"
    if not folder.exists():
        there = sorted(int(p.name.removeprefix("step-")) for p in folder.parent.glob("step-*"))
        have = f"those there are of {', '.join(map(str, there))}" if there else "there is none yet"
        raise ConfigError(f"--checkpoint {step}: {run} has no checkpoint of step {step}; {have}")
    return folder


def _image_files(places: Sequence[Path]) -> list[Path]:
    """The images named, and those in the folders named, at most `MOST_PICTURES`, evenly taken."""
    from streams.reader import IMAGE_SUFFIXES

    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise ConfigError(f"--check-images: there is nothing at {place}")
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        images = [f for f in found if f.suffix.lower().lstrip(".") in IMAGE_SUFFIXES]
        if not images:
            raise ConfigError(f"--check-images: no image in {place}")
        files += images
    return files[:: -(-len(files) // MOST_PICTURES)]


def _pictures(files: Sequence[Path]) -> list[Tensor]:
    """Each as a batch of one: they are of different sizes."""
    from online_swav.preprocessing import pixels_of_file
    from streams.errors import DecodeError

    try:
        return [pixels_of_file(file)[None] for file in files]
    except (DecodeError, OSError) as error:
        raise ConfigError(f"--check-images: {error}") from error
