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
                f"{entry.name}={_shown(getattr(value, entry.name))}"
                for entry in fields(value)
                if getattr(value, entry.name) != _default(entry, known)
            ]
            lines += [f"{group.name}: {' '.join(changed)}"] if changed else []
    return lines


def _default(entry: Field[Any], known: Any) -> Any:
    if known is not None:
        return getattr(known, entry.name)
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return shorten(f"{len(value)} ({', '.join(value)})", WIDTH, placeholder=" …)")
    if isinstance(value, list):
        return shorten(f"[{', '.join(map(_shown, value))}]", WIDTH, placeholder=" …]")
    if isinstance(value, Enum):
        return value.name
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
