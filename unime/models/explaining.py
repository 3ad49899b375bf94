"""What goes wrong while a stranger's files become a model, as the one line that a user is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unime.config import ModelConfig
from unime.errors import ConfigError, RunError

LONGEST = 400  # characters of what a library says
TERSE = (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)  # KeyError: 'a'


@contextmanager
def explained(model: ModelConfig, key: str = "model.name") -> Iterator[None]:
    """Whatever a library raises of the files that `model` names, as a ConfigError that says what to
    do about it; but for a full GPU, and for the ends of programs.

    Args:
        key: the setting whose files are read inside: ``model.name`` or ``model.adapter``.
    """
    try:
        yield
    except (ConfigError, RunError):
        raise
    except BaseException as error:
        kind = type(error).__name__
        # a library in Rust panics by a BaseException of its own
        if not isinstance(error, Exception) and kind != "PanicException":
            raise
        if kind == "OutOfMemoryError":  # torch's, of a GPU: program.py says what helps
            raise
        if "trust_remote_code" in str(error) and not model.trust_remote_code:
            raise ConfigError(own_code(str(model.name))) from error
        name = model.adapter or model.name if key == "model.adapter" else model.name
        raise ConfigError(f"{key}: {name} cannot be loaded: {in_one_line(error)}") from error


def own_code(name: str) -> str:
    """What is said of a model whose code was not asked for."""
    return (
        f"model.trust_remote_code: {name} brings its own code, which runs only where this is true;"
        " read it first, and pin model.revision"
    )


def in_one_line(error: BaseException) -> str:
    """What a library says, short, with the error's name where the words alone say too little."""
    words = " ".join(str(error).split())
    words = words if len(words) <= LONGEST else f"{words[:LONGEST]} …"
    if "num2words" in words:
        words += " (in 'unime[smolvlm]')"
    return words if words and not isinstance(error, TERSE) else f"{type(error).__name__}: {words}"
