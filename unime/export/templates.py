"""The templates of this folder, which write Markdown, Python and other templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# Of a template that writes a template, whose braces are then its text.
OUTER = {
    **{"block_start_string": "<%", "block_end_string": "%>"},
    **{"variable_start_string": "<<", "variable_end_string": ">>"},
    **{"comment_start_string": "<#", "comment_end_string": "#>"},
}


def rendered(template: str, outer: bool = False, **values: Any) -> str:
    """A template filled in; a value that it asks for and does not get is an error."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **(OUTER if outer else {}),  # type: ignore[arg-type]
    )
    templates.filters |= {"repr": repr, "json": json.dumps}
    return templates.get_template(template).render(values)
