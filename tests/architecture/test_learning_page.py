"""The page of the method names every file of its folder."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "online_swav" / "learning"


def test_the_table_of_files_is_the_folder():
    rows = [row for row in (FOLDER / "README.md").read_text().splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+\.py)`", row)]
    assert sorted(named) == sorted({p.name for p in FOLDER.glob("*.py")} - {"__init__.py"})
