"""A stack of adapters in a folder: each in peft's format, and what they were trained on and with.

final/
    encoder.json                the base, the inputs, and the adapters in their order
    00-rank32/ 01-rank16/       adapter_config.json, adapter_model.safetensors
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file
from torch import Tensor

from unime.errors import ConfigError
from unime.models.checkpoint_files import PICKLE
from unime.models.explaining import in_one_line
from unime.models.sentence_layout import read_exported, read_inputs
from unime.runtime.files import read_json, regular

DESCRIPTION, ADAPTER = "encoder.json", "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
VERSION = 2  # of encoder.json
LARGEST = 1e6  # of what scales an adapter
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
    base, adapters, merged = (description[key] for key in ("base", "adapters", "merged"))
    if not isinstance(base, dict):
        raise ConfigError(f"model.adapter: {path} has base {base!r}, expected a mapping")
    for key in ("name", "revision", "folder", "weights", "processor", "model_type"):
        if not isinstance(base.get(key), str | None):
            raise ConfigError(
                f"model.adapter: {path} has base.{key} {base[key]!r}, expected a text"
            )
    sample = base.get("embedding_sample", [])
    if not isinstance(sample, list) or not all(map(_is_number, sample)):
        raise ConfigError(f"model.adapter: {path}: base.embedding_sample: expected numbers")
    description["inputs"] = read_inputs(path, description["inputs"], "model.adapter")
    plain = isinstance(adapters, list) and all(map(_is_plain, adapters))
    if not plain or not adapters or len(set(adapters)) < len(adapters):
        raise ConfigError(
            f"model.adapter: {path} has adapters {adapters!r}, expected the names of folders beside"
            " it, each once"
        )
    if type(merged) is not int or not 0 <= merged <= len(adapters):
        raise ConfigError(
            f"model.adapter: {path} has merged {merged!r}, expected 0 to {len(adapters)}, its"
            " adapters"
        )
    return description


def _is_plain(name: Any) -> bool:
    """Whether it names something that lies directly in a folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _mapping_to(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def _names(value: Any) -> bool:
    return _is_text(value) or _list_of(_is_text)(value)


def _places(value: Any) -> bool:
    return type(value) is int or _list_of(lambda place: type(place) is int)(value)


SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of a peft adapter, where it has them
    "r": (_is_rank, "a positive number of directions"),
    "lora_alpha": (_is_scale, f"a number up to {LARGEST:g}"),
    "lora_dropout": (lambda value: _is_scale(value) and value < 1, "a number in [0, 1)"),
    "target_modules": (_names, "a pattern, or a list of names"),
    "exclude_modules": (_names, "a pattern, or a list of names"),
    "layers_pattern": (_names, "a pattern, or a list of them"),
    "layers_to_transform": (_places, "a number, or a list of them"),
    "rank_pattern": (_mapping_to(_is_rank), "a mapping to positive numbers"),
    "alpha_pattern": (_mapping_to(_is_scale), f"a mapping to numbers up to {LARGEST:g}"),
    "base_model_name_or_path": (lambda value: isinstance(value, str), "a text"),
    "revision": (lambda value: isinstance(value, str), "a text"),
    **dict.fromkeys(
        ("use_rslora", "use_dora", "fan_in_fan_out", "inference_mode"),
        (lambda value: type(value) is bool, "true or false"),
    ),
}
UNKNOWN = (  # kinds of adapters that are not LoRA alone, or that load other code
    *("layer_replication", "megatron_config", "modules_to_save", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "arrow_config", "use_bdlora", "use_qalora"),
    *("kasa_config", "velora_config", "monteclora_config"),
)


def read_config(path: Path) -> LoraConfig:
    """The configuration of a peft adapter in a folder, whose values are of their kinds.

    Raises:
        ConfigError: there is none, or of another kind of adapter.
    """
    file = path / ADAPTER
    settings = read_json(file, key="model.adapter")
    for key, (holds, words) in SETTINGS.items():
        value = settings.get(key)
        if value is not None and not holds(value):
            raise ConfigError(f"model.adapter: {file}: {key}: got {value!r}, expected {words}")
    for key in UNKNOWN:
        if settings.get(key):
            raise ConfigError(f"model.adapter: {file}: {key}: got {settings[key]!r}, expected null")
    try:
        config = PeftConfig.from_pretrained(str(path))
    except Exception as error:  # peft raises nearly anything of wrong kinds
        raise ConfigError(f"model.adapter: {path}: {in_one_line(error)}") from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"model.adapter: {path} is {config.peft_type}, expected LORA")
    return config


def read_weights(path: Path, may_be_pickled: bool) -> dict[str, Tensor]:
    file = path / WEIGHTS
    try:
        if file.is_file() or not (path / PICKLE).is_file():
            return load_file(regular(file))
        file = path / PICKLE
        if may_be_pickled:
            return torch.load(regular(file), map_location="cpu", weights_only=True)
    except Exception as error:  # of readers in Rust and C++
        raise ConfigError(f"model.adapter: {file}: {in_one_line(error)}") from error
    raise ConfigError(
        f"model.adapter: {file} is a pickle, expected {WEIGHTS}; model.pickled_adapter=true lets"
        " torch's restricted reader have it, which takes tensors only"
    )
