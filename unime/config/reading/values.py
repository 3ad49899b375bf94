"""Settings as YAML writes them, read by the type that a config class gives them.

YAML alone makes numbers of the texts 4e53218 and 0123456, and of ``no`` a false. Here the type
decides: on the command line a text is what was typed; in a file one that could be taken for
something else has to be in quotes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import cache, reduce
from operator import or_
from pathlib import Path
from textwrap import shorten
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from unime.config.reading.yaml_files import read_yaml
from unime.errors import ConfigError, UnknownKeyError, require

SHOWN = 80  # characters of a list or mapping that an error quotes
TAG = "tag:yaml.org,2002:"
# A number with an exponent, which YAML 1.1 takes for a text unless it has a dot and a sign.
EXPONENT = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)e[-+]?\d+", re.IGNORECASE)
CALL = re.compile(r"\$\{[^{}]*(:|\$\{)")  # ${oc.env:HOME}, or a name that is put together
BOOLS = yaml.SafeLoader.bool_values  # true, yes, on, …


def load_yaml(path: str | Path) -> Any:
    """What a YAML file holds, in plain types, dates as texts.

    Raises:
        ConfigError: it cannot be read, or is no YAML; names the file.
    """
    try:
        node = read_yaml(Path(path))
        return None if node is None else _free_value(node, "")
    except (ConfigError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None


def read_node(node: Node, hint: Any, key: str, typed: bool) -> Any:
    """The value of the setting `key`, of plain types: enums by their name, groups as mappings.

    ``${…}`` and ``???`` stay as they are, for OmegaConf, whatever the type.

    Args:
        typed: on the command line, where a text needs no quotes.

    Raises:
        ConfigError: another type than the hint's.
    """
    inner, optional = without_none(hint)
    if isinstance(node, ScalarNode):
        if "${" in node.value or node.value == "???":
            return _reference(node.value, key, typed)
        if inner is not Any and node.tag == f"{TAG}null":
            if not optional:
                raise _refusal(node, hint, key)
            return None
    if inner is Any:
        return _free_value(node, key)
    if is_dataclass(inner):
        return _read_group(node, inner, key, typed)
    if get_origin(inner) is dict:
        return {
            name: read_node(value, get_args(inner)[1], join(key, name), typed)
            for name, value in pairs(node, hint, key)
        }
    if get_origin(inner) is list:
        if not isinstance(node, SequenceNode):
            raise _refusal(node, hint, key)
        element = get_args(inner)[0]
        return [
            read_node(value, element, f"{key}[{n}]", typed) for n, value in enumerate(node.value)
        ]
    return _read_scalar(node, hint, key, typed)


def _read_group(node: Node, cls: Any, key: str, typed: bool) -> dict[str, Any]:
    """The settings of a config class, without those that are not given."""
    hints = get_type_hints(cls)
    values = {}
    for name, value in pairs(node, cls, key):
        if name not in hints:
            raise UnknownKeyError(f"unknown key '{join(key, name)}'", join(key, name))
        values[name] = read_node(value, hints[name], join(key, name), typed)
    return values


def pairs(node: Node | None, hint: Any, key: str) -> Iterator[tuple[str, Node]]:
    """The names of a mapping with what they stand for, ``<<`` resolved.

    Raises:
        ConfigError: no mapping, or a name that comes twice.
    """
    if not isinstance(node, MappingNode):
        raise _refusal(node, hint, key)
    names = Counter(name.value for name, _ in node.value if isinstance(name, ScalarNode))
    twice = next((name for name, count in names.items() if name != "<<" and count > 1), None)
    require(twice is None, join(key, str(twice)), "two values", "one")
    try:
        yaml.SafeLoader("").flatten_mapping(node)  # type: ignore[no-untyped-call]  # its "<<: *other"
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}", key) from None
    merged = {}
    for name, value in node.value:  # what "<<" brought comes first
        named = isinstance(name, ScalarNode) and bool(name.value)
        require(named, key, shown(name), "a name before each colon")
        merged[name.value] = name, value
    node.value = list(merged.values())  # an anchored mapping is met again
    yield from ((name, value) for name, (_, value) in merged.items())


def _read_scalar(node: Node, hint: Any, key: str, typed: bool) -> Any:
    inner, _ = without_none(hint)
    if not isinstance(node, ScalarNode):
        raise _refusal(node, hint, key)
    for kind in _kinds(inner)[:-1]:  # int | str: the first that takes it
        with suppress(ConfigError):
            return _read_scalar(node, kind, key, typed)
    inner = _kinds(inner)[-1]
    if inner is str:
        if not typed and not _is_text(node):
            expected = f"{expected_of(hint)}: write it in quotes"
            raise ConfigError(f"{key}: got {node.value}, expected {expected}", key)
        return node.value
    try:
        if inner is bool:
            return BOOLS[node.value.lower()]
        return inner[node.value].name if issubclass(inner, Enum) else inner(node.value)
    except (KeyError, ValueError):
        raise _refusal(node, hint, key) from None


def _reference(text: str, key: str, typed: bool) -> str:
    """A text with ``${…}`` in it. A file may be another's: what calls one of OmegaConf's functions,
    as for the environment, has to be typed."""
    expected = "a value, or ${key} of another setting; ${function:…} is for the command line"
    require(typed or CALL.search(text) is None, key, shorten(text, SHOWN), expected)
    return text


def _free_value(node: Node, key: str) -> Any:
    """Where every type is allowed: what YAML says, dates as texts."""
    if isinstance(node, MappingNode):
        return {name: _free_value(value, join(key, name)) for name, value in pairs(node, Any, key)}
    if isinstance(node, SequenceNode):
        return [_free_value(value, f"{key}[{n}]") for n, value in enumerate(node.value)]
    _reference(node.value, key, False)
    if node.style is None and EXPONENT.fullmatch(node.value):
        return float(node.value)
    if node.tag in (f"{TAG}null", f"{TAG}bool", f"{TAG}int", f"{TAG}float"):
        try:
            return yaml.SafeLoader("").construct_object(node)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError):  # !!int of a word
            raise _refusal(node, Any, key) from None
    return node.value


def _is_text(node: ScalarNode) -> bool:
    """Whether nobody could take it for a number, a date, true or false."""
    return node.tag == f"{TAG}str" and not (node.style is None and EXPONENT.fullmatch(node.value))


def without_none(hint: Any) -> tuple[Any, bool]:
    """The type of a setting that is not null, and whether null is allowed."""
    options = get_args(hint)
    if NoneType in options:
        kinds = (kind for kind in options if kind is not NoneType)
        return without_none(reduce(or_, kinds))[0], True
    return hint, False


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a setting that may be one of several."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of the fields of a config class, with their bounds."""
    return get_type_hints(cls, include_extras=True)


def without_bounds(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def expected_of(hint: Any) -> str:
    """What a setting of this type takes, in words, with its bounds where the type has them."""
    inner, optional = without_none(hint)
    bounds = [bound.words for bound in getattr(inner, "__metadata__", ())]
    inner = without_bounds(inner)
    if get_origin(inner) is list and get_origin(get_args(inner)[0]) is Annotated:
        bounds.insert(0, f"each {expected_of(get_args(inner)[0])}")
    if is_dataclass(inner) or get_origin(inner) is dict:
        said = "a mapping such as {key: value}"
    elif get_origin(inner) is list:
        said = "a list such as [a, b]"
    elif isinstance(inner, type) and issubclass(inner, Enum):
        said = f"one of {', '.join(inner.__members__)}"
    elif bounds and inner not in (int, float):
        said = bounds.pop(0)  # "a path" says it all
    elif len(_kinds(inner)) > 1:
        said = " or ".join(map(expected_of, _kinds(inner)))
    else:
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        said = names.get(inner, "a value")
    return ", ".join([said, *bounds] + ["or null"] * optional)


def shown(node: Node | None) -> str:
    """A value as an error quotes it."""
    if node is None:
        return ""
    if isinstance(node, ScalarNode):
        return str(node.value)
    begin, end = node.start_mark, node.end_mark
    return shorten(begin.buffer[begin.pointer : end.pointer], SHOWN, placeholder=" …")


def _refusal(node: Node | None, hint: Any, key: str) -> ConfigError:
    place = f"{key}: " if key else ""
    return ConfigError(f"{place}got {shown(node)!r}, expected {expected_of(hint)}", key)


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
