"""All adversarial cases. Run as a module, it renews their table in `docs/guarantees.md`:

python -m tests.adversarial.cases
"""

from __future__ import annotations

from pathlib import Path

from tests.adversarial import file_cases, image_cases, member_cases, tar_cases
from tests.adversarial.case import Case, markdown_table

CASES: list[Case] = [
    *tar_cases.CASES, *member_cases.CASES, *image_cases.CASES, *file_cases.CASES,
]  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "guarantees.md"
RENEW = "python -m tests.adversarial.cases"
_MARK = f"<!-- Generated from here on; renew with: {RENEW} -->\n\n"


def document() -> str:
    """The text of `docs/guarantees.md` with the table of now."""
    written = DOCUMENT.read_text().partition(_MARK)[0]
    return written + _MARK + markdown_table(CASES)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
