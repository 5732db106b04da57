"""All adversarial cases. Run as a module, it prints `docs/adversarial_shards.md`:

python -m tests.adversarial.cases > docs/adversarial_shards.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.adversarial import file_cases, image_cases, member_cases, tar_cases
from tests.adversarial.case import Case, markdown_table

CASES: list[Case] = [
    *tar_cases.CASES, *member_cases.CASES, *image_cases.CASES, *file_cases.CASES,
]  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "adversarial_shards.md"
RENEW = f"python -m tests.adversarial.cases > {DOCUMENT.relative_to(DOCUMENT.parents[1])}"

_INTRO = f"""\
# Adversarial shards

Every line is a test: `tests/adversarial` writes these shards, sends them through listing, book, \
reader, decoder and crops, and checks the outcome, the books, the quarantine, the memory and the \
files touched. A fault or a drop is always a line in the run's `quarantine` folder and a count in \
the books.

<!-- Generated; renew with: {RENEW} -->

"""


def document() -> str:
    """The text of `docs/adversarial_shards.md`."""
    return _INTRO + markdown_table(CASES)


if __name__ == "__main__":
    sys.stdout.write(document())
