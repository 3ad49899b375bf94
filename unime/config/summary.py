"""A configuration in a few lines."""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass
from enum import Enum
from textwrap import shorten
from typing import Any

WIDTH = 80  # characters of a long list


def summary(config: Any) -> list[str]:
    """The settings that differ from the defaults, a line for each group, as they are typed."""
    lines = []
    for group in fields(config):
        value = getattr(config, group.name)
        if is_dataclass(value):
            known = group.default_factory() if callable(group.default_factory) else None
            changed = [
                f"{entry.name}={as_typed(getattr(value, entry.name))}"
                for entry in fields(value)
                if getattr(value, entry.name) != default_of(entry, known)
            ]
            lines += [f"{group.name}: {' '.join(changed)}"] if changed else []
    return lines


def default_of(entry: Field[Any], known: Any) -> Any:
    """Of a field: what it is in the object `known`, None: by its class."""
    if known is not None:
        return getattr(known, entry.name)
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def as_typed(value: Any) -> str:
    """A value as a ``key=value`` word has it; long ones are cut."""
    if value and isinstance(value, dict):
        return shorten(f"{len(value)} ({', '.join(value)})", WIDTH, placeholder=" …)")
    if isinstance(value, list):
        return shorten(f"[{', '.join(map(as_typed, value))}]", WIDTH, placeholder=" …]")
    if isinstance(value, Enum):
        return value.name
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"
