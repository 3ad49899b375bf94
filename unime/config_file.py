"""Dataclasses from a YAML file and ``key=value`` words, with errors that name the key."""

from __future__ import annotations

import argparse
import difflib
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file, the key and the value."""


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise a ConfigError "key: value is not …" unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key}: got {value!r}, expected {expected}")


def load_config(cls: type[T], argv: list[str] | None = None) -> T:
    """Parse ``--config FILE [key=value …]`` into `cls`; ``--print-config`` shows it and exits."""
    program = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(
        description=program, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--print-config", action="store_true", help="show the resolved config and exit"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    try:
        config = build_config(cls, args.config, args.overrides)
    except ConfigError as error:
        parser.exit(2, f"error: {error}\n")
    if args.print_config:
        print(OmegaConf.to_yaml(OmegaConf.structured(config)))
        parser.exit(0)
    return config


def build_config(cls: type[T], path: Path | None, overrides: list[str] | None = None) -> T:
    """Defaults of `cls`, then the YAML file `path` if there is one, then the overrides.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, missing value, or values that
            don't go together.
    """
    try:
        loaded = OmegaConf.load(path) if path is not None else OmegaConf.create({})
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of settings")
    for word in overrides or []:
        if "=" not in word:
            raise ConfigError(f"command line: expected key=value, got {word!r}")
    schema = OmegaConf.structured(cls)
    merged = _merge(schema, loaded, str(path), cls)
    merged = _merge(merged, OmegaConf.from_dotlist(list(overrides or [])), "command line", cls)
    try:
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"no value for {', '.join(missing)}")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]  # runs every __post_init__
    except ConfigError as error:
        raise ConfigError(f"{path or 'command line'}: {error}") from None
    except OmegaConfBaseException as error:  # ${…} that leads nowhere
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{path}: {error.full_key}: {reason}") from None


def _merge(base: Any, update: Any, source: str, cls: type) -> Any:
    try:
        return OmegaConf.merge(base, update)
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key)
        valid = config_keys(cls, like=key)
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
        hint = f"; the nearest valid key is '{near[0]}'" if near else ""
        raise ConfigError(f"{source}: unknown key '{key}'{hint}") from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{source}: {_refused_key(base, update)}: {reason}") from None


def _refused_key(base: Any, update: Any) -> str:
    """The dotted key whose value does not merge; OmegaConf names only those of plain values."""
    for key in update:
        try:
            OmegaConf.merge(base, OmegaConf.create({key: update._get_node(key)}))
        except OmegaConfBaseException:
            inner = update._get_node(key)
            if isinstance(inner, DictConfig) and isinstance(base._get_node(key), DictConfig):
                return f"{key}.{_refused_key(base[key], inner)}"
            return str(key)
    return ""


def config_keys(cls: type, like: str = "", prefix: str = "") -> list[str]:
    """Every dotted key of a config class. In a mapping with free keys (``data.sources``) the keys
    below it are those of the free key that `like` has there."""
    hints = get_type_hints(cls)
    keys: list[str] = []
    for entry in fields(cls):
        name, hint = f"{prefix}{entry.name}", hints[entry.name]
        keys.append(name)
        if get_origin(hint) is dict and like.startswith(f"{name}."):
            name = f"{name}.{like[len(name) + 1 :].split('.')[0]}"
            hint = get_args(hint)[1]
        if is_dataclass(hint):
            keys += config_keys(hint, like, f"{name}.")  # type: ignore[arg-type]
    return keys


def dump_config(config: object) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
