"""Settings as a user types them: sections of a recipe as key=value words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from unime.config.reading.values import without_none


def words_of(cls: type, sections: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting that some sections of a configuration give, as a word.

    Args:
        cls: of the configuration; what it does not know becomes a word too, which whoever reads it
            refuses by name.
    """
    return [f"{key}={typed(value)}" for key, value in _settings(cls, sections, prefix)]


def _settings(cls: type, sections: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls)
    for name, value in sections.items():
        inner = without_none(hints.get(name, Any))[0]
        if is_dataclass(inner) and isinstance(inner, type) and isinstance(value, Mapping):
            yield from _settings(inner, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def shown(value: Any) -> str:
    """A value of the grid in tables and figures."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else typed(value)


def overlap(one: str, other: str) -> bool:
    """Whether a setting is another, or holds it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def typed(value: Any) -> str:
    """A value as the command line takes it: YAML in one line, a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
