"""Every option is documented where it is declared, and read somewhere."""

import ast
import dataclasses
import inspect
import typing
from pathlib import Path

import pytest

from online_swav.config import RunConfig

ROOT = Path(inspect.getfile(RunConfig)).parents[1]
SOURCES = [
    path.read_text()
    for folder in ("online_swav", "streams")
    for path in (ROOT / folder).rglob("*.py")
]


def config_classes(cls=RunConfig, seen=None):
    seen = {} if seen is None else seen
    seen[cls.__name__] = cls
    for hint in typing.get_type_hints(cls).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part) and part.__name__ not in seen:
                config_classes(part, seen)
    return seen


@pytest.mark.parametrize("cls", config_classes().values(), ids=config_classes().keys())
def test_every_field_has_its_meaning_below_it(cls):
    body = ast.parse(inspect.getsource(cls)).body[0].body
    for position, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            after = body[position + 1] if position + 1 < len(body) else None
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert documented, f"{cls.__name__}.{node.target.id} has no doc"


@pytest.mark.parametrize("cls", config_classes().values(), ids=config_classes().keys())
def test_every_field_is_read(cls):
    attributes = {
        node.attr
        for source in SOURCES
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
    }
    for field in dataclasses.fields(cls):
        assert field.name in attributes, f"{cls.__name__}.{field.name} is read nowhere"
