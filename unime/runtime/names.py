"""Names and texts that strangers chose, and those that strangers see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST_NAME = 100  # bytes; "_sample.safetensors.partial" goes behind it
LONGEST = 600  # characters of a text
# An absolute path within a sentence. Slashes within words and addresses begin none.
PLACE = re.compile(r"(?<![\w.:/-])(~|/)[^\s'\"`,;:|()<>\[\]]*/[^\s'\"`,;:|()<>\[\]]+")
# What a terminal would obey, and halves of characters, which no file in UTF-8 holds.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def is_name(value: object) -> bool:
    """Whether a name that others chose can be that of a file or folder of its own in one of ours:
    it stays there, nothing hides it, and what is put behind it leaves it short enough."""
    return (
        isinstance(value, str)
        and 0 < len(value.encode("utf-8", "replace")) <= LONGEST_NAME
        and value.isprintable()
        and value == value.strip()
        and not value.startswith(".")
        and "/" not in value
        and "\\" not in value
    )


def for_others(value: Any, longest: int | None = LONGEST) -> Any:
    """Texts for others, however deep they lie in mappings and lists: of an absolute path its last
    name, where things lie here being nobody's business; no control characters; and cut.

    Args:
        longest: characters of each text; None: it is not cut.
    """
    if isinstance(value, Mapping):
        return {_cut(key, longest): for_others(entry, longest) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [for_others(entry, longest) for entry in value]
    if not isinstance(value, str):
        return value
    is_path = value.startswith(("/", "~/")) and ": " not in value
    text = (
        (Path(value).name or value)
        if is_path
        else PLACE.sub(lambda found: Path(found[0]).name, value)
    )
    return _cut(CONTROL.sub("\ufffd", text), longest)


def _cut(text: Any, longest: int | None) -> Any:
    is_long = longest is not None and isinstance(text, str) and len(text) > longest
    return f"{text[:longest]} …" if is_long else text
