"""Dataclasses from a YAML file and ``key=value`` words, with errors that name the key.

Of a word counts what follows its first ``=``. For a setting that is a text this is the text, as it
was typed (``prompt=title: none | text: `` keeps its last space), but for ``null``, ``${…}``, and
quotes around the whole, which go (``name='"null"'`` is a text). For every other it is YAML. A word
for a group (``loss={temperature: 0.03}``) changes what it names. One for a mapping with free keys
(``data.sources``, ``models``) replaces it, ``data.sources.NAME=…`` adds or changes an entry, and
``data.sources.NAME=null`` takes it out.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.nodes import ScalarNode

from unime.config.reading.descriptions import NAME, commented, help_of, settings_of
from unime.config.reading.values import expected_of, read_node, without_none
from unime.config.reading.yaml_files import parse_yaml, read_yaml
from unime.errors import ConfigError, UnknownKeyError, in_a_line

T = TypeVar("T")
COMMAND_LINE = "command line"


def load_config(cls: type[T], argv: list[str] | None = None) -> T:
    """Parse ``--config FILE [key=value …]`` into `cls`; ``--print-config`` shows it and exits."""
    parser = program_parser(cls)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--print-config", action="store_true", help="show the resolved config and exit"
    )
    args = parse_words(parser, argv)
    config = built(parser, cls, args.config.expanduser(), args.overrides)
    if args.print_config:
        print(commented(config))
        parser.exit(0)
    return config


def built(
    parser: argparse.ArgumentParser, cls: type[T], path: Path | None, overrides: list[str]
) -> T:
    """What `build_config` makes of these; where they cannot be used the program ends with why."""
    try:
        return build_config(cls, path, overrides)
    except ConfigError as error:
        parser.exit(2, f"error: {in_a_line(error)}\n")


def program_parser(cls: type) -> argparse.ArgumentParser:
    """A parser for the words of the program that runs, whose help has its settings."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else ""
    return argparse.ArgumentParser(
        prog=f"python -m {name}" if name else None,  # None: argparse knows
        description=main.__doc__,
        epilog=help_of(cls),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse_words(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a parser and its settings, the `overrides`, in any order. A setting that is
    written as an option ends the program, with how it is written."""
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        settings = "settings are written key=value, without dashes"
        right = unknown[0].lstrip("-")
        example = f": {right}" if "=" in right else ""
        parser.exit(2, f"error: {parser.prog}: got {unknown[0]}; {settings}{example}\n")
    return args


def build_config(cls: type[T], path: Path | None, overrides: list[str] | None = None) -> T:
    """Defaults of `cls`, then the YAML file `path` if there is one, then the overrides.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, missing value, or values that
            don't go together; names file or command line, key, value and what was expected.
    """
    words = list(overrides or [])
    settings: dict[str, Any] = {}
    if path is not None:
        with _naming(str(path), cls):
            settings = _read_file(cls, path)
    with _naming(COMMAND_LINE, cls):
        for word in words:
            _check_characters(word)
            _apply(settings, cls, word)
    try:
        return _made(cls, settings)
    except ConfigError as error:
        key = error.key or str(error).partition(":")[0]
        typed = any(_touches(word.partition("=")[0], key) for word in words)
        source = COMMAND_LINE if typed or path is None else path
        raise ConfigError(f"{source}: {error}", error.key) from None


@contextmanager
def _naming(source: str, cls: type) -> Iterator[None]:
    """Errors say where the setting was given, and which key was meant."""
    try:
        yield
    except UnknownKeyError as error:
        keys = [s.key for s in settings_of(cls, like=error.key) if f".{NAME}." not in s.key]
        near = difflib.get_close_matches(error.key, keys, 1, cutoff=0)
        hint = f"; the nearest valid key is '{near[0]}'" if near else ""
        raise ConfigError(f"{source}: {error}{hint}", error.key) from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}", error.key) from None
    except RecursionError:
        raise ConfigError(f"{source}: mappings and lists in each other without end") from None


def _touches(given: str, key: str) -> bool:
    """Whether one of two keys is the other, or inside of it."""
    return f"{given}.".startswith(f"{key}.") or f"{key}.".startswith(f"{given}.")


def _read_file(cls: type, path: Path) -> dict[str, Any]:
    node = read_yaml(path)
    if node is None:
        return {}
    settings = read_node(node, cls, "", typed=False)
    if not isinstance(settings, dict):  # ${…} alone
        raise ConfigError(f"got {settings!r}, expected {expected_of(cls)}")
    return settings


def _check_characters(word: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in word):  # Python's for a byte that is none
        raise ConfigError(f"got {word!r}, expected a text in UTF-8")


def _apply(settings: dict[str, Any], cls: type, word: str) -> None:
    """Change the settings as a ``key=value`` word says."""
    key, sign, text = word.partition("=")
    if not sign:
        raise ConfigError(f"expected key=value, got {word!r}")
    parts, hint, place, free = key.split("."), cls, settings, False
    for number, part in enumerate(parts):
        inner = without_none(hint)[0]
        free = get_origin(inner) is dict
        if is_dataclass(inner) and part in (hints := get_type_hints(inner)):
            hint = hints[part]
        elif free and part:
            hint = get_args(inner)[1]
            if not is_dataclass(hint) and get_origin(hint) is not dict:
                parts[number:] = [".".join(parts[number:])]  # a name may have dots
        else:
            raise UnknownKeyError(f"unknown key '{key}'", key)
        if number + 1 == len(parts):
            break
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            above = ".".join(parts[: number + 1])
            raise ConfigError(f"{key}: {above} is {place!r}, which has nothing below it", key)
    last = parts[-1]
    if free and text == "null":
        there = ", ".join(place) or "nothing"
        if last not in place:
            raise ConfigError(f"{key}: got 'null', expected one that is there: {there}", key)
        del place[last]
    else:
        place[last] = _merged(hint, place.get(last), _read_word(text, hint, key))


def _merged(hint: Any, old: Any, new: Any) -> Any:
    """A group keeps what it is not told anew; everything else is replaced."""
    if not (is_dataclass(hint) and isinstance(old, dict) and isinstance(new, dict)):
        return new
    hints = get_type_hints(hint)
    return old | {name: _merged(hints[name], old.get(name), value) for name, value in new.items()}


def _read_word(text: str, hint: Any, key: str) -> Any:
    inner, optional = without_none(hint)
    if inner is not str:
        try:
            node = parse_yaml(text) or ScalarNode("tag:yaml.org,2002:str", "")
        except ConfigError as error:
            raise ConfigError(f"{key}: got {text!r}: {error}", key) from None
        return read_node(node, hint, key, typed=True)
    if text == "null":
        if not optional:
            raise ConfigError(f"{key}: got 'null', expected {expected_of(hint)}", key)
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            node = parse_yaml(text)
        except ConfigError:  # 'one' or 'another'
            return text
        return node.value if isinstance(node, ScalarNode) else text
    return text


def _made(cls: type[T], settings: dict[str, Any]) -> T:
    """What OmegaConf makes of checked settings: defaults, and what ``${…}`` says."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), settings)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"no value for {', '.join(missing)}")
        made: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{key}: {reason}", key) from None
    return made


def dump_config(config: object) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
