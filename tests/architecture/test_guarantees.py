"""Every proof that the documents name is a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


@pytest.mark.parametrize("document", ["docs/guarantees.md"])
def test_named_tests_exist(document):
    named = NAMED.findall((ROOT / document).read_text())
    assert len(named) >= 20
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        names |= {target.id for node in tree.body if isinstance(node, ast.Assign)
                  for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
        assert name in names, f"{document} names {path}::{name}, which does not exist"


def test_every_sentence_has_a_proof():
    rows = [line for line in (ROOT / "docs/guarantees.md").read_text().splitlines()
            if re.match(r"\| *\d* *\| [A-Za-z`1]", line)]  # fmt: skip
    assert len(rows) >= 19
    for row in rows:
        assert NAMED.search(row), f"no test is named for: {row}"
