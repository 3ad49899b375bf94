"""The templates of this folder, which write Markdown, Python and another template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def rendered(template: str, **values: Any) -> str:
    """A template filled in; a value that it asks for and does not get is an error. Braces are text
    in it: ``<< value >>``, ``<% if … %>``."""
    templates = Environment(
        *("<%", "%>", "<<", ">>", "<#", "#>"),
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"repr": repr, "json": json.dumps}
    return templates.get_template(template).render(values)
