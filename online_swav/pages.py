"""HTML pages from templates: everything that is filled in is escaped."""

from __future__ import annotations

import re
import time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from online_swav import wording

_CODE = re.compile(r"(\(*)(--[a-z][\w.-]{1,78}\w|`[^`]{1,200}`)([),.;:*]*)")


def with_code(text: str) -> Markup:
    """A sentence whose options and commands stand out, and are only broken if a line is too short.

    Brackets and commas stay with them.
    """
    text = wording.unbroken(text)
    found, end = Markup(""), 0
    for match in _CODE.finditer(text):
        before, code, after = match.groups()
        whole = Markup('<span class="whole">{}<code>{}</code>{}</span>')
        found += text[end : match.start()] + whole.format(before, code.strip("`"), after)
        end = match.end()
    return found + text[end:]


_FILTERS = {
    "duration": wording.duration,
    "size": wording.size,
    "number": wording.number,
    "plain_name": wording.plain_name,
    "clock": lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)),
    "moment": lambda at: time.strftime("%d %b %H:%M", time.localtime(at)),
    "with_code": with_code,
}


def _finalize(value: Any) -> Any:
    """Of each value that is filled in: markup is left alone."""
    return wording.unbroken(value) if type(value) is str else value


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("online_swav", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


_ENVIRONMENT = _environment()


def style_sheet(*names: str) -> Markup:
    """Style sheets of the package, one after the other; they hold no `<`."""
    loader = _ENVIRONMENT.loader
    assert loader is not None
    sheets = [loader.get_source(_ENVIRONMENT, name)[0] for name in names]
    return Markup("\n".join(sheets))  # our own files


def render(template: str, **values: Any) -> str:
    """A page; bytes of file names that are no UTF-8 come out as question marks."""
    text = _ENVIRONMENT.get_template(template).render(**values)
    return text.encode(errors="replace").decode()
