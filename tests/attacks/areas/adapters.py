"""Attacks on adapters: what describes them, peft's configuration, their weights, where they lie."""

from __future__ import annotations

import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from tests.attacks.damage import (
    Deeds,
    cut,
    flipped,
    link,
    lying_headers,
    no_json,
    not_a_file,
    payload_code,
    pickled,
    remove,
    renamed,
    values,
    write,
)
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from tests.attacks.victims import ADAPTER, adapted, build_model, encode, no_vectors, other_than

LAYER = "00-rank8"
DESCRIPTION, CONFIG = f"{ADAPTER}/encoder.json", f"{ADAPTER}/{LAYER}/adapter_config.json"
WEIGHTS = f"{ADAPTER}/{LAYER}/adapter_model.safetensors"
HUGE = 10**9
SLOW = "(((a|l|.)*)*)*x"  # a pattern that takes for ever


def tensors(**more: torch.Tensor) -> Deed:
    """The adapter's weights with others beside them."""
    return lambda: save_file(load_file(WEIGHTS) | more, WEIGHTS, {"format": "pt"})


def scaled(factor: float) -> Deed:
    return lambda: save_file(
        {name: tensor * factor for name, tensor in load_file(WEIGHTS).items()}, WEIGHTS
    )


def resized() -> None:
    found = {name: tensor[:1].contiguous() for name, tensor in load_file(WEIGHTS).items()}
    save_file(found, WEIGHTS)


def pickle_alone() -> None:
    remove(WEIGHTS)
    pickled(f"{ADAPTER}/{LAYER}/adapter_model.bin")


def imported(**settings: object) -> Deed:
    """A setting that names a module, which lies where the program runs."""

    def act() -> None:
        write("evil.py", payload_code())
        write("peft_evil.py", payload_code())
        for key, value in settings.items():
            values(CONFIG, key, value).popitem()[1]()

    return act


def leaving(name: str) -> Deed:
    """The name of an adapter that lies outside of the folder."""

    def act() -> None:
        values(DESCRIPTION, "adapters", [name.format(os.path.abspath("../outside"))]).popitem()[1]()

    return act


DESCRIBED: Deeds = {
    **no_json(DESCRIPTION),
    **not_a_file(DESCRIPTION),
    **values(DESCRIPTION, "version", None, "x", 99, [2]),
    **values(DESCRIPTION, "base", None, 7, []),
    **values(DESCRIPTION, "base.name", None, 7, "", ["x"]),
    **values(DESCRIPTION, "base.processor", 7, "../../outside/model", ["x"]),
    **values(DESCRIPTION, "inputs", None, 7, [], "x"),
    **values(DESCRIPTION, "inputs.resolution", "30000x30000", 7, "x", None),
    **values(DESCRIPTION, "inputs.prompt", 7, "x", ["unime"]),
    **values(DESCRIPTION, "inputs.max_text_tokens", -1, "x", 1.5, [512]),
    **values(DESCRIPTION, "inputs.max_tiles", -1, "x", HUGE),
    **values(DESCRIPTION, "adapters", [], None, 7, "x", [7], [None], [""], ["."], [LAYER, LAYER]),
    **values(DESCRIPTION, "adapters", {"a": LAYER}, [LAYER] * 2000, ["gone"], ["\0"], ["a" * 5000]),
    **values(DESCRIPTION, "merged", 99, -1, "x", None, True, 1.5, [0]),
}
CONFIGS: Deeds = {
    **no_json(CONFIG),
    **not_a_file(CONFIG),
    **values(CONFIG, "r", HUGE, 10**18, 0, -1, "x", None, 1.5, 7),
    **values(CONFIG, "lora_alpha", "x", None, float("nan"), float("inf")),
    **values(CONFIG, "lora_dropout", "x", -1, 2, None),
    **values(CONFIG, "target_modules", SLOW, "(", [], None, 7, ["x"], [7], {"a": 1}),
    **values(CONFIG, "target_modules", ".*", "", ["x"] * 100_000, "all-linear"),
    **values(CONFIG, "exclude_modules", SLOW, 7, "(", ".*"),
    **values(CONFIG, "rank_pattern", {SLOW: 4}, 7, {"(": 4}, {".*": HUGE}, ["x"]),
    **values(CONFIG, "alpha_pattern", {SLOW: 4}, 7, {".*": "x"}),
    **values(CONFIG, "layers_to_transform", HUGE, "x", [-1], [99]),
    **values(CONFIG, "layers_pattern", SLOW, 7),
    **values(CONFIG, "layer_replication", [[0, HUGE]], [[0, 2], [0, 2]], 7),
    **values(CONFIG, "modules_to_save", ["lm_head"], 7, ["x"]),
    **values(CONFIG, "init_lora_weights", "pissa", "eva", "loftq", "x", 7),
    **values(CONFIG, "peft_type", "x", "IA3", "PREFIX_TUNING", 7, None),
    **values(CONFIG, "task_type", "x", 7, "CAUSAL_LM"),
    **values(CONFIG, "base_model_name_or_path", "../../outside/model", 7, "x/y"),
    **values(CONFIG, "bias", "all", "x", 7),
    **values(CONFIG, "use_dora", True, "x"),
    **values(CONFIG, "trainable_token_indices", [0], [HUGE], "x"),
    "import-megatron": imported(megatron_config={"a": 1}, megatron_core="evil"),
    "import-auto-mapping": imported(
        auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}
    ),
}
DAMAGED: Deeds = {
    **cut(WEIGHTS, 7),
    **flipped(WEIGHTS, 6, first=1500),
    **lying_headers(WEIGHTS),
    **not_a_file(WEIGHTS),
    "weights-gone": lambda: remove(WEIGHTS),
    "weights-nan": scaled(float("nan")),
    "weights-infinite": scaled(float("inf")),
    "weights-smaller": resized,
    "tensor-of-the-base": tensors(**{"base_model.model.lm_head.weight": torch.zeros(4, 4)}),
    "tensor-of-no-module": tensors(**{"base_model.model.x.lora_A.weight": torch.zeros(8, 64)}),
    "tensor-with-dots": tensors(**{"base_model.model...lora_A.weight": torch.zeros(8, 64)}),
    "pickle-alone": pickle_alone,
}
PLACES: Deeds = {
    "leaves-by-dots": leaving("../../../outside/adapter"),
    "leaves-by-path": leaving("{}/adapter"),
    "description-linked": lambda: link(DESCRIPTION, "../outside/notes.txt"),
}
SECOND = f"{ADAPTER}/{LAYER}"  # as a plain adapter of peft
NAMES = ("model.name", "model.adapter", "run/final", "encoder.json", "adapter_config.json")


def build() -> None:
    """The outside has another adapter for the same model."""
    build_model()
    shutil.copytree(f"{ADAPTER}/{LAYER}", "outside/adapter")
    found = load_file(WEIGHTS)
    other = {name: -tensor for name, tensor in found.items() if "lora_A" in name}
    save_file(found | other, "outside/adapter/adapter_model.safetensors")


def plain() -> torch.Tensor:
    """The adapter by itself, which names its base."""
    return encode(name=SECOND)


def attacks() -> list[Attack]:
    unharmed = other_than("adapted.npy")
    bases = values(CONFIG, "base_model_name_or_path", 7, "", None, ".", "x/y", "\0", "../" * 999)
    return [
        *each({"control": nothing} | DAMAGED | PLACES, adapted, NAMES, unharmed),
        *each(DESCRIBED | CONFIGS, adapted, (*NAMES, "inputs.", "model.processor"), no_vectors),
        *each(renamed("plain", bases), plain, ("model.name",)),
    ]


AREA = Area("adapters", build, attacks, ("adapter_model.safetensors-cut-3",))
