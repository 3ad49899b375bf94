"""A stack of adapters in a folder: each in peft's format, and what they were trained on and with.

final/
    encoder.json                the base, the inputs, and the adapters in their order
    00-rank32/ 01-rank16/       adapter_config.json, adapter_model.safetensors
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unime.errors import ConfigError
from unime.models.sentence_layout import read_exported
from unime.runtime.files import read_json

DESCRIPTION, ADAPTER = "encoder.json", "adapter_config.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
VERSION = 2  # of encoder.json
TEXT_INPUTS = ("prompt", "max_text_tokens")  # all that stage 1 sees


def adapter_folders(folder: str | Path) -> list[Path]:
    """The adapters in a folder of `save_adapters`, in their order, or a plain peft adapter."""
    folder = Path(folder)
    if described := read_description(folder):
        return [folder / name for name in described["adapters"]]
    if (folder / ADAPTER).is_file():
        return [folder]
    raise ConfigError(f"model.adapter: {folder} holds neither {DESCRIPTION} nor {ADAPTER}")


def base_places(name: str, near: Path, folder: str | None = None) -> list[Path]:
    """Where the base may lie that an adapter names: where it is named from here, where it lay when
    the adapter was saved, and by its relative name from the folders around the adapter's.

    Args:
        near: the adapter's folder.
        folder: where the base lay.
    """
    around = [] if Path(name).is_absolute() else [of / name for of in near.resolve().parents]
    return list(dict.fromkeys([Path(name), *([Path(folder)] if folder else []), *around]))


def named_folder(name: str, near: Path, folder: str | None = None) -> Path | None:
    """The first of `base_places` that is there."""
    return next((of for of in base_places(name, near, folder) if of.is_dir()), None)


def trained_inputs(base: Path, adapter: Path | None) -> dict[str, Any]:
    """What adapters, or the exported model in `base`, were trained with, as far as these say it."""
    inputs: dict[str, Any] = {}
    for folder in filter(None, (base, adapter)):
        inputs |= read_exported(folder)["inputs"] | read_description(folder).get("inputs", {})
    return inputs


def read_description(folder: Path) -> dict[str, Any]:
    """What `save_adapters` wrote; of another folder nothing."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return {}
    description: dict[str, Any] = read_json(path, key="model.adapter")
    if not {"base", "inputs", "adapters", "merged"} <= set(description):
        raise ConfigError(f"model.adapter: {path} lacks base, inputs, adapters or merged")
    if description.get("version") != VERSION:
        found = description.get("version")
        raise ConfigError(f"model.adapter: {path} has version {found!r}, expected {VERSION}")
    for key in ("base", "inputs"):
        if not isinstance(description[key], dict):
            found = description[key]
            raise ConfigError(f"model.adapter: {path} has {key} {found!r}, expected a mapping")
    return description


def read_config(path: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"model.adapter: {path}: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"model.adapter: {path} is {config.peft_type}, expected LORA")
    return config


def read_weights(path: Path, may_be_pickled: bool) -> dict[str, Tensor]:
    file = path / WEIGHTS
    try:
        if file.is_file() or not (path / PICKLE).is_file():
            return load_file(file)
        file = path / PICKLE
        if may_be_pickled:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.adapter: {file}: {reason}") from error
    raise ConfigError(
        f"model.adapter: {file} is a pickle, expected {WEIGHTS}; model.pickled_adapter=true lets"
        " torch's restricted reader have it, which takes tensors only"
    )
