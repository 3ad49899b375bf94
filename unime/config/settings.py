"""What a setting is: in its type its bounds, beside its default what it means, as in
``rank: Positive[int] = setting(16, "of the low-rank matrices")``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from omegaconf import MISSING

from unime.config.reading.values import expected_of, hints_of, join, without_bounds, without_none
from unime.errors import require

T = TypeVar("T")
LONGEST, LONGEST_PATH = 255, 4096  # bytes of a file's name, and of a path


@dataclass(frozen=True)
class Bounds:
    """What a value of the right type has to be besides, in words and as a test."""

    words: str
    hold: Callable[[Any], object]  # true or false


def one_of(*names: str) -> Bounds:
    return Bounds(f"one of {', '.join(names)}", names.__contains__)


def is_path(value: str) -> bool:
    """Whether a system can have such a path, there or not."""
    try:
        name = os.fsencode(value)
    except UnicodeEncodeError:  # half a character
        return False
    longest = max(map(len, name.split(b"/")))
    return 0 < len(name) < LONGEST_PATH and b"\0" not in name and longest <= LONGEST


Positive = Annotated[T, Bounds("positive", lambda value: value > 0)]
NotNegative = Annotated[T, Bounds("0 or more", lambda value: value >= 0)]
NotEmpty = Annotated[T, Bounds("at least one", bool)]
BelowOne = Annotated[float, Bounds("in [0, 1)", lambda value: 0 <= value < 1)]
WholeOrLess = Annotated[float, Bounds("in [0, 1]", lambda value: 0 <= value <= 1)]
Share = Annotated[float, Bounds("in (0, 1)", lambda value: 0 < value < 1)]
Seed = Annotated[int, Bounds("in [0, 2**31)", lambda value: 0 <= value < 2**31)]
Temperature = Annotated[float, Bounds("positive, 0.0001 or more", lambda value: value >= 1e-4)]
FilePath = Annotated[str, Bounds("a path", is_path)]  # ~ is the user's folder


def setting(default: T, description: str) -> T:
    """A field of a config class, with its meaning in one line; each object has its own default."""
    about = {"description": description}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=about)
    return field(default=default, metadata=about)


class Settings:
    """A config class that looks at its values when it is made."""

    section: ClassVar[str]  # the key below which a configuration has these settings, "optim"

    def __init_subclass__(cls, section: str = "") -> None:
        cls.section = section

    def __post_init__(self) -> None:
        """Bring the paths into the form that programs use.

        Raises:
            ConfigError: a value out of its bounds, or a number that is not finite.
        """
        _check_fields(self, self.section)


def _check_fields(settings: Any, key: str) -> None:
    hints = hints_of(settings.__class__)
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        setattr(settings, entry.name, _checked(hints[entry.name], value, join(key, entry.name)))


def _checked(hint: Any, value: Any, key: str) -> Any:
    """The value of the setting `key` as programs use it: paths without ``~``."""
    inner, optional = without_none(hint)
    if value is None or value == MISSING:
        return value
    if isinstance(value, float):
        require(math.isfinite(value), key, value, "a finite number")
    for bounds in getattr(inner, "__metadata__", ()):
        require(bool(bounds.hold(value)), key, value, bounds.words + ", or null" * optional)
    if inner is FilePath:
        return os.path.expanduser(value)
    inner = without_bounds(inner)
    if isinstance(inner, type) and issubclass(inner, Enum) and not isinstance(value, inner):
        require(value in list(inner.__members__), key, value, expected_of(inner))
        return inner[value]
    element = get_args(inner)[-1] if get_origin(inner) in (list, dict) else Any
    if isinstance(value, list):
        return [_checked(element, entry, key) for entry in value]
    if isinstance(value, dict):
        return {name: _checked(element, entry, join(key, name)) for name, entry in value.items()}
    if is_dataclass(value):
        _check_fields(value, key)
    return value
