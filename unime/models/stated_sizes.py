"""What a stranger's files say of sizes, held against what is there before memory is taken for it:
a configuration against its weights, a rank against its layers, a processor against pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoConfig

from unime.backbones.families import backbone_of
from unime.errors import ConfigError
from unime.runtime.bounded import OutOfBoundsError, WorkError, bounded
from unime.runtime.files import read_json

PLANNING = 60  # seconds that a model without weights may take to be built
SPARE = 1 << 28  # numbers that it may have or compute beside the weights that are there
MANY = 10_000  # crops or frames of a picture or video
# what the processors of the families call the sides of a picture, and how many are made of it
SIDES = ("size", "crop_size", "pad_size", "max_image_size", "image_grid_pinpoints", "tile_size")
NUMBERS = ("max_patches", "min_patches", "num_crops", "dynamic_hd", "max_image_tiles", "num_frames")
SIDE = 8192  # pixels
PATCHES = ("patch_size", "temporal_patch_size", "merge_size")  # what a picture is cut into
PATCH = 256


def check_plan(folder: Path, numbers: int, code: bool = False, auto_class: Any = None) -> None:
    """Refuse a configuration of a much larger model than the weights beside it are: what these do
    not fill is refused anyway (check_complete), after the memory has been taken.

    Args:
        numbers: in the weights.
        code: it may bring its own.
        auto_class: of transformers; None: its family's.

    Raises:
        ConfigError: it is larger, or takes too long to be built.
    """
    path = folder / "config.json"
    config = read_json(path, key="model.name")
    try:
        planned, buffers = _planned(folder, json.dumps(config), code, auto_class)
    except WorkError:  # loading it in full will say so, in its own words
        return
    except OutOfBoundsError as error:
        raise ConfigError(f"model.name: {path}: building such a model {error}") from None
    if planned > 2 * numbers + SPARE or buffers > numbers + SPARE:
        raise ConfigError(
            f"model.name: {path} is of a model of {planned:,} numbers (and {buffers:,} computed),"
            f" the weights beside it are {numbers:,}"
        )


@lru_cache(maxsize=16)
def _planned(folder: Path, config: str, code: bool, auto_class: Any) -> tuple[int, int]:
    """The numbers in a model's weights and buffers; `config` is the content of its file."""

    def plan() -> list[int]:
        known: tuple[Any, AbstractContextManager[None]] = auto_class, nullcontext()
        read = AutoConfig.from_pretrained(folder, trust_remote_code=code)
        if auto_class is None:
            backbone = backbone_of(read, code)
            known = backbone.auto_model, backbone.importing()
        with known[1], torch.device("meta"):
            model = known[0].from_config(read, trust_remote_code=code)
        return [sum(of.numel() for of in found) for found in (model.parameters(), model.buffers())]

    weights, buffers = bounded(plan, PLANNING)
    return weights, buffers


def check_rank(config: LoraConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse ranks beyond the width of all layers that an adapter has tensors for, and tensors that
    are quantised."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(f"model.adapter: {path}: {name} is of {kind}, expected a float")
    widest = max((side for of in tensors.values() for side in of.shape), default=0)
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if rank > widest:
            raise ConfigError(
                f"model.adapter: {path}: rank {rank}, expected at most the width of its layers,"
                f" {widest}"
            )


def check_pictures(processor: Any) -> None:
    """Refuse a processor that makes an enormous picture of a small one, or enormously many.

    Raises:
        ConfigError: it does; names the processor's own setting.
    """
    for kind in ("image_processor", "video_processor"):
        part = getattr(processor, kind, None)
        # Qwen-VL's edges are numbers of pixels, of which the larger makes large pictures smaller
        areas = hasattr(type(part), "temporal_patch_size")
        for name in PATCHES:
            for _, value in _numbers(name, getattr(part, name, None)):
                if not 1 <= value <= PATCH:
                    raise ConfigError(
                        f"model.processor: its {kind} has {value} as {name}, expected 1 to {PATCH}"
                    )
        for name in (*SIDES, *NUMBERS, "min_pixels"):
            for key, value in _numbers(name, getattr(part, name, None)):
                if key == "max_pixels" or (key == "longest_edge" and areas):
                    continue
                of_area = key == "min_pixels" or (key == "shortest_edge" and areas)
                limit = SIDE**2 if of_area else MANY if name in NUMBERS else SIDE
                if not 0 <= value <= limit:
                    raise ConfigError(
                        f"model.processor: its {kind} has {value} as {name}, expected 0 to {limit}"
                    )


def _numbers(key: str, value: Any) -> Iterable[tuple[str, float]]:
    """All numbers in a setting of a processor, each with the name next to it."""
    if isinstance(value, int | float):
        return [(key, value)]
    if isinstance(value, list | tuple):
        return [found for entry in value for found in _numbers(key, entry)]
    entries = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return [found for name, entry in entries.items() for found in _numbers(str(name), entry)]
