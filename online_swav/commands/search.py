"""`search`: the pictures that are nearest to one, in a file of embeddings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from online_swav.config import RunConfig
from online_swav.errors import ConfigError

if TYPE_CHECKING:
    from online_swav.embeddings.search import Found


def search(arguments: list[str]) -> int:
    """Find the nearest pictures."""
    parser = argparse.ArgumentParser(
        prog="online-swav search",
        description="The pictures nearest to one, by cosine of their embeddings: every row of a "
        "file that `online-swav embed` wrote is looked at, a few thousand at a time.",
    )
    parser.add_argument("--index", type=Path, required=True, metavar="FILE",
                        help="the Parquet file of embeddings")  # fmt: skip
    parser.add_argument("--image", type=Path, required=True, metavar="FILE",
                        help="the picture to look for")  # fmt: skip
    parser.add_argument("--run", type=Path, metavar="DIR",
                        help="the encoder, if it is no longer beside the index; it has to be the "
                        "one that made it")  # fmt: skip
    parser.add_argument("-k", type=int, default=12, metavar="N",
                        help="how many (default: %(default)s)")  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE",
                        help="write them as a page too: one HTML file with thumbnails, for any "
                        "browser and without a network")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="where the encoder runs (default: a GPU if there is one)")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.k < 1:
        raise ConfigError(f"-k must be at least 1, got {options.k}")
    if options.html is not None and not options.html.absolute().parent.is_dir():
        raise ConfigError(f"--html {options.html}: the folder does not exist")
    from online_swav.embeddings import require_pyarrow

    require_pyarrow()
    from online_swav.assemble import choose_device
    from online_swav.commands.counting import counting
    from online_swav.embeddings.search import search as search_index
    from online_swav.embeddings.table import number_of_rows

    with counting("looking at rows", number_of_rows(options.index)) as advance:
        found = search_index(
            options.index, options.image, place=options.run, k=options.k,
            device=choose_device(RunConfig(device=options.device)),
            thumbnails=options.html is not None, advance=advance,
        )  # fmt: skip
    _print(found)
    if options.html is not None:
        from online_swav.embeddings.search_page import search_page

        try:
            options.html.write_text(search_page(found, index=options.index), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--html {options.html}: {error.strerror}") from error
        print(f"open it with a browser: {options.html.resolve().as_uri()}")
    return 0


def _print(found: Found) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    query = found.query
    own = "" if query.prototype is None else f", prototype {query.prototype} ({query.score:.3f})"
    table = Table(title=Text(f"nearest to {query.name}{own}, of {found.rows:,} pictures"),
                  title_justify="left", box=SIMPLE)  # fmt: skip
    for name in ("", "cosine", "key", "shard", "index", "prototype"):
        left = name in ("key", "shard")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for place, hit in enumerate(found.hits, start=1):
        prototype = "" if hit.prototype is None else str(hit.prototype)
        table.add_row(str(place), f"{hit.cosine:.4f}", Text(hit.key), Text(Path(hit.shard).name),
                      str(hit.index), prototype)  # fmt: skip
    console = Console()
    console.print(table)
    for shard, why in found.without_picture():
        console.print(f"no thumbnail from {shard}: {why}", markup=False, highlight=False)
