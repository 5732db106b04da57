"""What every finding means: the sections of docs/health.md."""

from __future__ import annotations

from pathlib import Path

_IN_A_CHECKOUT = Path(__file__).parents[1] / "docs" / "health.md"
_IN_A_WHEEL = Path(__file__).parent / "health.md"
GUIDE = _IN_A_CHECKOUT if _IN_A_CHECKOUT.exists() else _IN_A_WHEEL


def guide_address(name: str) -> str:
    """Where the metrics port serves the section of a finding.

    The guide is served as plain text, which has no anchors: browsers look for the heading itself.
    """
    return f"/docs/health.md#{name}:~:text=%23%23%23%20{name}"


def explanations() -> dict[str, str]:
    """Text of the section of each finding, by its name; empty where the guide is not at hand."""
    try:
        lines = GUIDE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    section: list[str] = []
    for line in lines:
        if line.startswith("#"):
            level, _, title = line.partition(" ")
            section = found.setdefault(title, []) if level == "###" else []
        else:
            section.append(line)
    return {name: " ".join(" ".join(text).split()) for name, text in found.items()}
