"""Where the parts of a model lie: weights, an adapter, or a run of ours, in a folder or on the hub.

`model.name` may hold full weights (also in sentence-transformers' layout), a peft adapter or the
adapters of one of our runs. The last two say which base they belong to, which is then had the same
way. Everything becomes a folder on this machine, so that what is loaded can also be fingerprinted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from unime.config import ModelConfig
from unime.errors import ConfigError, DataError
from unime.models.adapter_files import (
    ADAPTER,
    DESCRIPTION,
    base_places,
    named_folder,
    read_description,
)
from unime.models.checkpoint_files import PICKLE, Checkpoint, Source, has_processor, own_weights
from unime.models.explaining import explained
from unime.models.sentence_layout import MODULES, transformer_folder
from unime.runtime.files import read_json, regular

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
FINAL, CHECKPOINTS = "final", "checkpoints"  # in a run's folder
WANTED = ("*.json", "*.jinja", "*.txt", "*.model")  # what configurations and tokenizers may need


@dataclass(frozen=True)
class NamedBase:
    """What adapters say of the base that they were trained on."""

    name: str
    revision: str | None
    folder: str | None = None  # where it lay then


def locate(model: ModelConfig) -> Checkpoint:
    """Find, and download where needed, what `model` names.

    Raises:
        ConfigError: it is not there, names two adapters, or pools in a way that this encoder does
            not.
    """
    with explained(model):
        return _locate(model)


def _locate(model: ModelConfig) -> Checkpoint:
    code = model.trust_remote_code
    named = fetch("model.name", model.name, model.revision, code, extra=_pickles(model))
    transformer_folder(named.folder)  # also around an adapter
    adapter, base, revision = find_adapter(model), named, model.revision
    if (trained_on := _base_of(named)) is not None:
        if adapter is not None:
            raise ConfigError(
                f"model.adapter: got {model.adapter!r}, but model.name: {model.name!r} is an"
                f" adapter already, of {trained_on.name!r}"
            )
        adapter, revision = named, trained_on.revision
        base = _fetch_base(model, named, trained_on)
    described = read_description(adapter.folder) if adapter is not None else {}
    elsewhere = model.processor or described.get("base", {}).get("processor")
    if elsewhere is not None:
        processor = fetch("model.processor", *split_revision(elsewhere), code, weights=False)
    else:  # an adapter that was published with one was trained with it
        processor = adapter if adapter is not None and has_processor(adapter.folder) else base
    base = replace(base, folder=transformer_folder(base.folder))
    return Checkpoint(base, adapter, processor, revision, elsewhere)


def _fetch_base(model: ModelConfig, adapter: Source, named: NamedBase) -> Source:
    try:
        base = trained_base(adapter.folder, named, model.trust_remote_code)
    except ConfigError as error:
        raise ConfigError(
            f"model.name: {model.name} is an adapter; {error}; give the base in model.name and the"
            " adapter in model.adapter"
        ) from error
    if _base_of(base) is not None:
        raise ConfigError(
            f"model.name: {model.name} is an adapter of {named.name}, another adapter"
        )
    return base


def trained_base(adapter: Path, named: NamedBase, code: bool = False) -> Source:
    """The base that the adapter in a folder names: a folder, wherever it is now, or a hub id.

    Raises:
        ConfigError: it is in none of the places where it may be.
    """
    name, folder = named.name, named.folder
    there = named_folder(name, adapter, folder)
    if there is not None:
        return Source(str(there), there)
    places = ", ".join(str(place) for place in base_places(name, adapter, folder)[:4])
    if folder is not None or not HUB_ID.fullmatch(name):  # often of the one who trained it
        raise ConfigError(
            f"its base is the folder {name}, which is not there; looked for {places} …"
        )
    try:
        return fetch("its base", name, named.revision, code)
    except ConfigError as error:
        raise ConfigError(f"{error}; as a folder it was looked for in {places} …") from error


def find_adapter(model: ModelConfig) -> Source | None:
    """What `model.adapter` names."""
    if model.adapter is None:
        return None
    name, revision = split_revision(model.adapter)
    return fetch("model.adapter", name, revision, model.trust_remote_code, extra=_pickles(model))


def _pickles(model: ModelConfig) -> tuple[str, ...]:
    return (PICKLE,) if model.pickled_adapter else ()


def fetch(
    key: str,
    name: str,
    revision: str | None = None,
    code: bool = False,
    weights: bool = True,
    extra: tuple[str, ...] = (),
) -> Source:
    """A local folder as it is, or a hub id through huggingface_hub's cache.

    Args:
        key: the setting that names it, for messages.
        code: also the Python files.
        extra: and other files.
    """
    if Path(name).is_dir():
        inside = inside_of_run(key, name)
        _check_files(key, Path(name) / inside)
        return Source(f"{name.rstrip('/')}/{inside}" if inside else name, Path(name) / inside)
    patterns = (*WANTED, *["*.safetensors"] * weights, *["*.py"] * code, *extra)
    try:
        folder = _snapshot(name, revision, patterns)
    except HFValidationError:
        raise ConfigError(f"{key}: {name} cannot be loaded: there is no such folder") from None
    except OSError as error:  # no network and not in the cache, no such model, no access to it
        at = f" at {revision}" if revision else ""
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{key}: {name} cannot be loaded: no folder, and not to be had from the hub{at} or its"
            f" cache: {reason}"
        ) from error
    return Source(name, folder, folder.name)


def _check_files(key: str, folder: Path) -> None:
    try:
        for path in folder.iterdir():
            if not path.is_dir():
                regular(path)  # a pipe would be waited for
    except (OSError, DataError) as error:
        raise ConfigError(f"{key}: {error}") from None


def inside_of_run(key: str, name: str) -> str:
    """Where in the folder of a run, which has to be finished, its adapters are; "" of any other."""
    folder = Path(name)
    if any((folder / file).is_file() for file in (DESCRIPTION, ADAPTER, MODULES, "config.json")):
        return ""
    if (folder / FINAL / DESCRIPTION).is_file():
        return FINAL
    steps = sorted(path for path in (folder / CHECKPOINTS).glob("step_*") if path.is_dir())
    if not steps:
        return ""
    usable = [path for path in steps if (path / DESCRIPTION).is_file()]
    hint = f"name one of its checkpoints, such as {usable[-1]}" if usable else "finish it first"
    raise ConfigError(f"{key}: {name} is a run that is not finished (it has no {FINAL}/): {hint}")


@cache  # one answer a process, also when a branch moves on the hub meanwhile
def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


def split_revision(name: str) -> tuple[str, str | None]:
    """``org/name@revision``; a folder may have an @ in its name, a hub id not."""
    identifier, _, revision = name.partition("@")
    return (name, None) if Path(name).is_dir() else (identifier, revision or None)


def _base_of(source: Source) -> NamedBase | None:
    """None: it is neither a run of ours nor an adapter."""
    folder: str | None = None
    if (path := source.folder / DESCRIPTION).is_file():
        base = read_description(source.folder)["base"]
        name, revision, folder = (base.get(key) for key in ("name", "revision", "folder"))
    elif (path := source.folder / ADAPTER).is_file():
        if own_weights(source.folder):  # transformers would load the adapter and another base
            raise ConfigError(
                f"model.name: {source.name} has weights and {path.name}: name the base in"
                " model.name and the adapter in model.adapter, each in a folder of its own"
            )
        config = read_json(path, key="model.name")
        name, revision = config.get("base_model_name_or_path"), config.get("revision")
    else:
        return None
    if not isinstance(name, str) or not name:
        raise ConfigError(f"model.name: {path} names no base model; give it in model.name")
    return NamedBase(name, revision, folder)
