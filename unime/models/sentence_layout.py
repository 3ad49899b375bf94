"""Checkpoints in sentence-transformers' layout, of which the encoder does one kind: the last token
of the last layer, made a unit vector (Qwen3-VL-Embedding, for one)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from unime.errors import ConfigError, require
from unime.runtime.files import read_json

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
    described = read_json(folder / EXPORTED, key="model.name")
    inputs = described.get("inputs")
    require(isinstance(inputs, dict), "model.name", inputs, f"inputs in {folder / EXPORTED}")
    return {"merged": []} | described


def transformer_folder(folder: Path) -> Path:
    """Check that the modules of this layout do what the encoder does: last token, unit norm.

    Returns:
        The folder of the transformer: `folder` itself, also when it is of another layout.
    """
    if not (folder / MODULES).is_file() or is_exported(folder):
        return folder
    modules = read_json(folder / MODULES, list, key="model.name")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ConfigError(
            f"model.name: {folder / MODULES}: got {', '.join(kinds)}, expected Transformer, Pooling"
            " and Normalize: the last token of the last layer, and nothing after it"
        )
    inside = folder / modules[0].get("path", "")
    path = folder / modules[1].get("path", "") / "config.json"
    config = read_json(path, key="model.name")
    flags = {key: on for key, on in config.items() if key.startswith(FLAG)}  # until 5.4
    modes = config.get("pooling_mode") or [key.removeprefix(FLAG) for key in flags if flags[key]]
    modes = [modes] if isinstance(modes, str) else modes
    if modes != ["lasttoken"]:
        raise ConfigError(f"model.name: {path}: pooling is {modes}, expected lasttoken")
    _check_outputs(inside / "sentence_bert_config.json")
    return inside


def _check_outputs(path: Path) -> None:
    """What sentence-transformers takes of the transformer, where its configuration says so."""
    if not path.is_file():
        return
    for modality, how in (read_json(path, key="model.name").get("modality_config") or {}).items():
        taken = (how.get("method"), how.get("method_output_name"))
        if taken != ("forward", "last_hidden_state"):
            raise ConfigError(
                f"model.name: {path}: {modality} takes {taken[1]} of {taken[0]}, expected"
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
