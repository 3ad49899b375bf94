"""What every setting takes, means and is, read where its field stands: for ``--help``,
``--print-config``, docs/settings.md, the first lines of a run, and a folder that others made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from textwrap import fill, indent, shorten
from typing import Any, get_args, get_origin

from omegaconf import MISSING, OmegaConf

from unime.config.reading.values import expected_of, hints_of, without_bounds, without_none

NAME = "NAME"  # stands for any name in a mapping with free keys
WIDTH = 80  # characters of a long list


@dataclass(frozen=True)
class Setting:
    """One key of a configuration."""

    key: str
    takes: str
    default: str
    description: str

    @property
    def about(self) -> str:
        if not self.takes:
            return self.description
        default = f"default {self.default}" if self.default else "required"
        return f"{self.description} ({self.takes}; {default})"


def settings_of(
    cls: Any, like: str = "", prefix: str = "", known: object = None
) -> Iterator[Setting]:
    """Every setting of a config class, a group before what is in it; a group takes nothing itself.

    Args:
        like: a key, whose name in a mapping with free keys (``data.sources``) stands for all names.
        known: an object that has the defaults; None: those of the class.
    """
    hints = hints_of(cls)
    for entry in fields(cls):
        key, hint, default = prefix + entry.name, hints[entry.name], _default_of(entry, known)
        missing = default == MISSING
        inner = without_bounds(without_none(hint)[0])
        if is_dataclass(inner):
            about = " ".join(str(inspect.getdoc(inner)).partition("\n\n")[0].split())
            yield Setting(key, "", "", about)
            yield from settings_of(inner, like, f"{key}.", None if missing else default)
            continue
        shown = "" if missing else _as_typed(default)
        yield Setting(key, expected_of(hint), shown, entry.metadata["description"])
        if get_origin(inner) is dict and is_dataclass(element := get_args(inner)[1]):
            name = (
                like.removeprefix(f"{key}.").split(".")[0] if like.startswith(f"{key}.") else NAME
            )
            yield from settings_of(element, like, f"{key}.{name}.")


def help_of(cls: type) -> str:
    """The settings of a program, for its ``--help``."""
    lines = [_filled(f"{setting.key}: {setting.about}", "  ") for setting in settings_of(cls)]
    return "\n".join(["settings:", *lines])


def _filled(text: str, start: str) -> str:
    return fill(
        text, 96, initial_indent=start, subsequent_indent=f"{start}  ", break_on_hyphens=False
    )


def commented(config: Any) -> str:
    """A configuration as YAML, above each setting what it takes and means."""
    about = {setting.key: setting.about for setting in settings_of(type(config))}
    return _commented(config, about, "")


def _commented(config: Any, about: dict[str, str], prefix: str) -> str:
    parts = []
    for entry in fields(config):
        key, value = prefix + entry.name, getattr(config, entry.name)
        parts.append(_filled(about[key], "# ") + "\n")
        if is_dataclass(value):
            parts.append(f"{entry.name}:\n" + indent(_commented(value, about, f"{key}."), "  "))
        else:
            parts.append(OmegaConf.to_yaml({entry.name: value}))
    return "".join(parts)


def summary(config: Any) -> list[str]:
    """The settings that differ from the defaults, a line for each group, as they are typed."""
    changed: dict[str, list[str]] = {}
    usual, chosen = settings_of(type(config)), settings_of(type(config), known=config)
    for before, now in zip(usual, chosen, strict=True):
        group, _, name = now.key.partition(".")
        if now.default != before.default:
            changed.setdefault(group, []).append(f"{name}={now.default}")
    return [f"{group}: {' '.join(words)}" for group, words in changed.items()]


def made_otherwise(folder: object, made: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Why a folder cannot take what is asked for: it was made with other settings, which are named;
    "": with the same.

    Args:
        made: by its key each setting, or group of them, that decided what lies there, as JSON.
        asked: the same of what is to be written.
    """
    other = _different(made, asked, "")
    return f"{folder} was made with other {', '.join(other)}; name another folder" if other else ""


def _different(made: Mapping[str, Any], asked: Mapping[str, Any], prefix: str) -> list[str]:
    found = []
    for key in dict.fromkeys((*asked, *made)):
        old, new = made.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _different(old, new, f"{prefix}{key}.")
        elif old != new or (key in made) != (key in asked):
            found.append(f"{prefix}{key}")
    return found


def _default_of(entry: Field[Any], known: Any) -> Any:
    """Of a field: what it is in the object `known`, None: by its class."""
    if known is not None:
        return getattr(known, entry.name)
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _as_typed(value: Any) -> str:
    """A value as a ``key=value`` word has it; long ones are cut."""
    if value and isinstance(value, dict):
        return shorten(f"{len(value)} ({', '.join(value)})", WIDTH, placeholder=" …)")
    if isinstance(value, list):
        return shorten(f"[{', '.join(map(_as_typed, value))}]", WIDTH, placeholder=" …]")
    if isinstance(value, Enum):
        return value.name
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"
