"""Adapters trained with another version of transformers: their modules by the names they have here.

Transformers 4.52 moved the parts of multimodal models (``model.layers`` of Qwen2-VL is
``model.language_model.layers`` since). Full weights are renamed when they are loaded, adapters not
in every family (peft 0.21), and their ``target_modules`` never. So each name is looked up among the
modules of the base: it has to fit exactly one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from unime.errors import ConfigError
from unime.runtime.bounded import OutOfBoundsError, WorkError, bounded

PREFIX = "base_model.model."  # peft's, of every tensor
_TENSOR = re.compile(r"(?P<module>.+)\.(?P<rest>lora_(?:A|B|magnitude_vector)(?:\.weight)?)")


def fit_names(
    tensors: dict[str, Tensor], config: LoraConfig, modules: Iterable[str], file: Path
) -> tuple[dict[str, Tensor], LoraConfig]:
    """Tensors and configuration of an adapter, in the names of the base's `modules`.

    Where all names are the base's, both stay as they are. Else the modules that have tensors are
    the ones that were adapted, whatever list or pattern of old names had chosen them.

    Raises:
        ConfigError: a tensor of no module, of several, or that is none of LoRA's; a pattern that
            cannot be matched, or not in time.
    """
    known = set(modules)
    _check_patterns(config, [*known, *tensors], file)
    by_leaf: dict[str, list[str]] = defaultdict(list)
    for path in known:
        by_leaf[path.rpartition(".")[2]].append(path)
    renamed: dict[str, Tensor] = {}
    new_names: dict[str, str] = {}  # of modules
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name.removeprefix(PREFIX))
        if match is None:
            raise ConfigError(
                f"model.adapter: {file}: {name} is no LoRA weight, and nothing else is supported"
            )
        old = match["module"]
        if old not in new_names:
            new_names[old] = old if old in known else _find(old, by_leaf, f"{file}: {name}")
        key = f"{PREFIX}{new_names[old]}.{match['rest']}"
        if key in renamed:
            raise ConfigError(f"model.adapter: {file}: {name} fits the same module as another one")
        renamed[key] = tensor
    if all(old == new for old, new in new_names.items()):
        return tensors, config
    return renamed, _retarget(config, new_names)


def _check_patterns(config: LoraConfig, names: list[str], file: Path) -> None:
    """Match a stranger's patterns with all names where that can be ended, before peft does it."""
    chosen = [config.target_modules, config.exclude_modules]
    patterns = [of for of in chosen if isinstance(of, str)]
    layers = config.layers_pattern or []
    patterns += [
        rf"(?:^|.*?\.){of}\.(?P<idx>\d+)\." for of in ([layers] * isinstance(layers, str) or layers)
    ]
    keys = [*(config.rank_pattern or {}), *(config.alpha_pattern or {})]
    patterns += [rf"(.*\.)?({key})$" for key in keys]

    def work() -> int:
        compiled = [re.compile(pattern) for pattern in patterns]
        found = [of for of in compiled for name in names if of.fullmatch(name) or of.match(name)]
        return len(found)

    try:
        if patterns:
            bounded(work)
    except (WorkError, OutOfBoundsError) as error:
        raise ConfigError(
            f"model.adapter: {file.parent}: its patterns of modules cannot be matched: {error}"
        ) from None


def _find(old: str, by_leaf: dict[str, list[str]], tensor: str) -> str:
    """The one module whose path has the parts of `old` in their order, or the other way round."""
    parts = _telling_parts(old)
    candidates = [
        path
        for path in by_leaf.get(parts[-1], [])
        if _in_order(parts, _telling_parts(path)) or _in_order(_telling_parts(path), parts)
    ]
    if len(candidates) != 1:
        fits = f"fits {', '.join(sorted(candidates)[:3])}" if candidates else "fits no module"
        raise ConfigError(f"model.adapter: {tensor} {fits} of the base, expected exactly one")
    return candidates[0]


def _telling_parts(path: str) -> list[str]:
    return [part for part in path.split(".") if part != "model"]  # says nothing about where it is


def _in_order(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(part in rest for part in short)


def _retarget(config: LoraConfig, new_names: dict[str, str]) -> LoraConfig:
    """The same adapter, for exactly these modules; what it says of single ones by old names goes
    with them."""

    def translate(patterns: dict[str, Any] | None) -> dict[str, Any]:
        keys = list(patterns or {})
        found = {new: get_pattern_key(keys, old) for old, new in new_names.items()}
        return {re.escape(new): patterns[key] for new, key in found.items() if key in keys}  # type: ignore[index]

    config = deepcopy(config)
    config.target_modules = sorted(new_names.values())
    config.rank_pattern = translate(config.rank_pattern)
    config.alpha_pattern = translate(config.alpha_pattern)
    config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
    return config
