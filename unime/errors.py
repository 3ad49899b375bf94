"""What a user is told in one line: a setting, data, or a run that cannot go on."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path

SHOWN = 200  # characters of a value that an error quotes
LONGEST_LINE = 2000  # characters of a message, of longer ones the begin and the end


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file, the key and the value."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key  # "" where it is not about one setting


class UnknownKeyError(ConfigError):
    """No config class has such a key."""


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise a ConfigError "key: value is not …" unless the condition holds."""
    if not condition:
        found = repr(value)
        found = found if len(found) <= SHOWN else f"{found[:SHOWN]} …"
        raise ConfigError(f"{key}: got {found}, expected {expected}", key)


def require_package(package: str, extra: str, key: str) -> None:
    """Raise a ConfigError that says what to install unless the Python package is there."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{key}: {package} is not installed: pip install 'unime[{extra}]'", key)


class DataError(ValueError):
    """Data that cannot be used; the message names the file, row, column and value.

    Attributes:
        kind: of the fault, by which checks count; "": of no kind of its own.
        columns: the cells that it is about.
        plain: the message without settings, for programs that do not have those that it names.
    """

    def __init__(
        self, message: str, kind: str = "", columns: tuple[str, ...] = (), plain: str = ""
    ) -> None:
        super().__init__(message)
        self.kind, self.columns, self.plain = kind, columns, plain or message


def in_plain_words(error: Exception) -> str:
    """What it says, without settings that not every program has."""
    return error.plain if isinstance(error, DataError) else str(error)


class RunError(Exception):
    """A run that cannot go on: loss or gradient not finite, disk or memory full."""


def in_a_line(error: object) -> str:
    """A message as a terminal is shown it: one line of bounded length, of letters and no commands,
    whatever a stranger's value in it."""
    text = str(error)
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} … {text[-LONGEST_LINE // 2 :]}"
    return "".join(
        one if one.isprintable() else repr(one)[1:-1] for one in " ".join(text.split("\n"))
    )


def in_words(error: Exception) -> str:
    """An error in one line; of one that is not about the data, also where it comes from."""
    if isinstance(error, DataError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
