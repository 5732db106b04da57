"""What was found, as one HTML file: pictures and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from online_swav.embeddings.search import Found
from online_swav.pages import render, style_sheet
from online_swav.report.thumbnails import uri


def search_page(found: Found, *, index: Path) -> str:
    """The page."""
    same = sum(hit.prototype == found.query.prototype for hit in found.hits)
    return render(
        "search.html",
        style=style_sheet("look.css", "search.css"),
        index=index.name,
        query=found.query,
        picture=uri(found.query.thumbnail) if found.query.thumbnail else None,
        encoder=found.about["encoder"],
        rows=found.rows,
        same=same if found.query.prototype is not None else None,
        hits=[
            {
                "place": place,
                "uri": uri(picture) if isinstance(picture, bytes) else None,
                "missing": picture if isinstance(picture, str) else None,
                "cosine": f"{hit.cosine:.3f}",
                "key": hit.key,
                "shard": Path(hit.shard).name,
                "where": f"{hit.shard}, sample {hit.index}",
                "prototype": hit.prototype,
                "same": hit.prototype is not None and hit.prototype == found.query.prototype,
            }
            for place, (hit, picture) in enumerate(
                zip(found.hits, found.thumbnails, strict=True), start=1
            )
        ],
        facts=_facts(found),
    )


def _facts(found: Found) -> list[tuple[str, Any]]:
    about = found.about
    facts = [
        ("Made with", about["encoder"]),
        ("Elements", about["dtype"] + (", of unit norm" if about["normalised"] else "")),
        ("Weights", about["digest"]),
        ("Encoder asked for", about["asked_for"]),
    ]
    return [(name, value) for name, value in facts if value]
