"""Checkpoints in sentence-transformers' layout, of which the encoder does one kind: the last token
of the last layer, made a unit vector (Qwen3-VL-Embedding, for one)."""

from __future__ import annotations

import importlib.util
from itertools import chain
from pathlib import Path
from typing import Any

from unime.config import INPUT_DEFAULTS, InputConfig
from unime.errors import ConfigError, require
from unime.models.checkpoint_files import PICKLE, PICKLES, Source, check_names
from unime.models.explaining import own_code
from unime.runtime.files import inside, read_json

MODULES = "modules.json"
EXPORTED = "unime.json"  # in what export.py writes: the inputs that it was trained with
FLAG = "pooling_mode_"


def is_exported(folder: Path) -> bool:
    return (folder / EXPORTED).is_file()


def read_exported(folder: Path) -> dict[str, Any]:
    """What an export says of itself: `inputs`, and `merged`, the digests of the adapters that are
    part of its weights; of another folder nothing."""
    if not is_exported(folder):
        return {"inputs": {}, "merged": []}
    path = folder / EXPORTED
    described = {"merged": []} | read_json(path, key="model.name")
    described["inputs"] = read_inputs(path, described.get("inputs"), "model.name")
    merged = described["merged"]
    digests = isinstance(merged, list) and all(isinstance(of, str) for of in merged)
    require(digests, "model.name", merged, f"a list of digests as merged in {path}")
    return described


def read_inputs(path: Path, inputs: Any, key: str) -> dict[str, Any]:
    """What a model was trained with, as the file at `path` says it, once it is known to be usable.

    Args:
        key: the setting that names the model, for messages.
    """
    if not isinstance(inputs, dict):
        raise ConfigError(f"{key}: {path} has inputs {inputs!r}, expected a mapping")
    known = {name: inputs[name] for name in INPUT_DEFAULTS if inputs.get(name) is not None}
    for name, value in known.items():
        kind = type(INPUT_DEFAULTS[name])
        require(type(value) is kind, key, value, f"{kind.__name__} as inputs.{name} in {path}")
    try:
        InputConfig(**known)
    except ConfigError as error:
        raise ConfigError(f"{key}: {path}: {error}") from None
    return known


def transformer_folder(folder: Path) -> Path:
    """Check that the modules of this layout do what the encoder does: last token, unit norm.

    Returns:
        The folder of the transformer: `folder` itself, also when it is of another layout.
    """
    if not (folder / MODULES).is_file() or is_exported(folder):
        return folder
    modules = read_modules(folder)
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ConfigError(
            f"model.name: {folder / MODULES}: got {', '.join(kinds)}, expected Transformer, Pooling"
            " and Normalize: the last token of the last layer, and nothing after it"
        )
    transformer, pooling = (folder / module["path"] for module in modules[:2])
    path = pooling / "config.json"
    config = read_json(path, key="model.name")
    flags = {key: on for key, on in config.items() if key.startswith(FLAG)}  # until 5.4
    modes = config.get("pooling_mode") or [key.removeprefix(FLAG) for key in flags if flags[key]]
    modes = [modes] if isinstance(modes, str) else modes
    if modes != ["lasttoken"]:
        raise ConfigError(f"model.name: {path}: pooling is {modes}, expected lasttoken")
    _check_outputs(transformer / "sentence_bert_config.json")
    return transformer


def read_modules(folder: Path, key: str = "model.name") -> list[dict[str, str]]:
    """What this layout's list of modules says: of each its type, and its path inside `folder`.

    Args:
        key: the setting that names the model, for messages.
    """
    path = folder / MODULES
    modules = []
    for module in read_json(path, list, key=key):
        entry = {"type": "", "path": ""} | (module if isinstance(module, dict) else {})
        if not (isinstance(entry["type"], str) and entry["type"]) or not inside(entry["path"]):
            raise ConfigError(
                f"{key}: {path}: got {module!r}, expected a type, and a path inside the folder"
            )
        modules.append(entry)
    return modules


def check_modules(source: Source, code: bool = False, key: str = "model.name") -> None:
    """Refuse what sentence-transformers would read or run of a folder beside its own modules and
    safetensors: pickles, files outside of it, modules of other libraries.

    Args:
        code: it may bring its own.
        key: the setting that names the model, for messages.
    """
    folder = source.folder
    modules = read_modules(folder, key) if (folder / MODULES).is_file() else []
    for kind in (module["type"] for module in modules):
        if not (code or kind.startswith("sentence_transformers.")):
            raise ConfigError(f"{own_code(source.name)} ({folder / MODULES}: {kind})")
    parts = {folder, *(folder / module["path"] for module in modules)}
    for part in sorted(part for part in parts if part.is_dir()):
        check_names(part, key)
    weights = {path.parent for path in folder.rglob("*.safetensors")}
    pickles = chain(*(sorted(folder.rglob(form)) for form in PICKLES))
    unread = [path for path in pickles if path.parent not in weights or path.name == PICKLE]
    if unread or not weights:
        found = f"{unread[0]}: a pickle, which is not read" if unread else "none"
        raise ConfigError(
            f"{key}: {source.name} cannot be loaded: expected *.safetensors in {folder}, found"
            f" {found}"
        )


def _check_outputs(path: Path) -> None:
    """What sentence-transformers takes of the transformer, where its configuration says so."""
    if not path.is_file():
        return
    taken = read_json(path, key="model.name").get("modality_config") or {}
    require(isinstance(taken, dict), "model.name", taken, f"a mapping: modality_config in {path}")
    for modality, how in taken.items():
        how = how if isinstance(how, dict) else {}
        output, method = how.get("method_output_name"), how.get("method")
        if (method, output) != ("forward", "last_hidden_state"):
            raise ConfigError(
                f"model.name: {path}: {modality} takes {output} of {method}, expected"
                " last_hidden_state of forward"
            )


def packaged_model(module: str, key: str = "name") -> Path:
    """The folder of a sentence-transformers model inside an installed package; nothing is imported.

    Args:
        key: the setting that names it, for messages.

    Raises:
        ConfigError: the package is not installed, or holds no model or several.
    """
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        package = module.replace("_", "-")
        raise ConfigError(f"{key}: no Python package {module!r} here; pip install {package}")
    found = sorted(Path(places[0]).rglob(MODULES))
    if len(found) != 1:
        raise ConfigError(f"{key}: package {module!r} holds {len(found)} models, expected 1")
    return found[0].parent
