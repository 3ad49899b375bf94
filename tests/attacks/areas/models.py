"""Attacks on folders of models: weights, indices, configurations, what processors are told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
    values,
    write,
)
from tests.attacks.harness import Area, Attack, each, nothing
from tests.attacks.victims import MODEL, build_model, encode, no_vectors, other_than

WEIGHTS, INDEX = f"{MODEL}/model.safetensors", f"{MODEL}/model.safetensors.index.json"
CONFIG, PROCESSOR = f"{MODEL}/config.json", f"{MODEL}/processor_config.json"
HUGE = 10**12


def tensors(change: Any) -> Any:
    """The weights with a change of the first matrix of the language model."""

    def act() -> None:
        found = load_file(WEIGHTS)
        name = next(name for name in found if "mlp" in name and "visual" not in name)
        changes = change(found[name])
        if changes is None:
            del found[name]
        save_file(found | ({} if changes is None else {name: changes}), WEIGHTS, {"format": "pt"})

    return act


def indexed(file: str) -> None:
    """Weights that an index names by another file's name."""
    names = list(load_file(WEIGHTS))
    remove(WEIGHTS)
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    write(INDEX, json.dumps(content))


def zeros() -> None:
    found = {name: torch.zeros_like(tensor) for name, tensor in load_file(WEIGHTS).items()}
    save_file(found, WEIGHTS, {"format": "pt"})


def pickle_alone() -> None:
    remove(WEIGHTS)
    pickled(f"{MODEL}/pytorch_model.bin")


def pickle_indexed() -> None:
    indexed("pytorch_model.bin")
    pickled(f"{MODEL}/pytorch_model.bin")


def own_code(file: str, key: str, name: str) -> Any:
    def act() -> None:
        content = json.loads(Path(file).read_text())
        write(file, json.dumps(content | {"auto_map": {key: f"evil.{name}"}, "model_type": "evil"}))
        write(f"{MODEL}/evil.py", payload_code())

    return act


DAMAGED: Deeds = {
    **cut(WEIGHTS, 9),
    **flipped(WEIGHTS, 8, first=2000),
    **lying_headers(WEIGHTS),
    **not_a_file(WEIGHTS),
    "weights-gone": lambda: remove(WEIGHTS),
    "tensor-gone": tensors(lambda tensor: None),
    "tensor-turned": tensors(lambda tensor: tensor.T.contiguous()),
    "tensor-smaller": tensors(lambda tensor: tensor[:3].contiguous()),
    "tensor-int8": tensors(lambda tensor: tensor.to(torch.int8)),
    "tensor-bool": tensors(lambda tensor: tensor > 0),
    "tensor-complex": tensors(lambda tensor: tensor.to(torch.complex64)),
    "tensor-nan": tensors(lambda tensor: tensor * float("nan")),
    "tensor-infinite": tensors(lambda tensor: tensor / 0),
    "tensors-zero": zeros,
    "pickle-alone": pickle_alone,
    "pickle-indexed": pickle_indexed,
    "index-leaves": lambda: indexed("../../outside/model/model.safetensors"),
    "index-absolute": lambda: indexed(os.path.abspath("../outside/model/model.safetensors")),
    "index-of-nothing": lambda: indexed("gone.safetensors"),
    "index-of-a-number": lambda: indexed(7),  # type: ignore[arg-type]
    "index-device": lambda: indexed("/dev/zero"),
}
CONFIGS: Deeds = {
    **no_json(CONFIG),
    **not_a_file(CONFIG),
    **values(CONFIG, "text_config.hidden_size", -1, 0, HUGE, "64", None, 64.5, [64]),
    **values(CONFIG, "text_config.num_hidden_layers", -1, 10**6, "x", None),
    **values(CONFIG, "text_config.vocab_size", -1, 0, HUGE, None),
    **values(CONFIG, "text_config.num_attention_heads", 0, 3, "x"),
    **values(CONFIG, "text_config.rope_parameters", None, 7, {"rope_type": "x"}, []),
    **values(CONFIG, "text_config.hidden_act", "__import__('os').abort()", None),
    **values(CONFIG, "text_config", None, 7, []),
    **values(CONFIG, "vision_config", None, 7, []),
    **values(CONFIG, "vision_config.depth", -1, 10**6, "x"),
    **values(CONFIG, "vision_config.patch_size", 0, -4, HUGE),
    **values(CONFIG, "model_type", "x", "../../x", None, 7, ["qwen2_vl"]),
    **values(CONFIG, "architectures", None, 7, ["os.system"]),
    **values(CONFIG, "image_token_id", -1, HUGE, None, "x"),
    **values(CONFIG, "dtype", "x", 7, "__import__('os')"),
    **values(CONFIG, "quantization_config", {}, 7, {"quant_method": "x"}, {"load_in_4bit": True}),
    **values(CONFIG, "attn_implementation", "x/y", "../../evil"),
    "code-of-the-config": own_code(CONFIG, "AutoConfig", "Config"),
    "code-of-the-processor": own_code(PROCESSOR, "AutoProcessor", "Processor"),
}
PROCESSORS: Deeds = {
    **no_json(PROCESSOR, "empty"),
    **not_a_file(PROCESSOR),
    **values(PROCESSOR, "image_processor", None, 7, []),
    **values(PROCESSOR, "image_processor.patch_size", 0, -4, HUGE, "x", None),
    **values(PROCESSOR, "image_processor.merge_size", 0, -1, HUGE),
    **values(
        PROCESSOR, "image_processor.size", 7, {}, {"shortest_edge": HUGE, "longest_edge": HUGE}
    ),
    **values(PROCESSOR, "image_processor.image_mean", [0.5], "x", [float("nan")] * 3),
    **values(PROCESSOR, "image_processor.image_std", [0.0] * 3),
    **values(PROCESSOR, "image_processor.rescale_factor", "x", float("inf")),
    **values(PROCESSOR, "image_processor.image_processor_type", "x", 7, "os.system"),
    **values(PROCESSOR, "processor_class", "x", 7, "os.system"),
}


def said_by_an_export(**inputs: Any) -> Any:
    return lambda: write(f"{MODEL}/unime.json", json.dumps({"inputs": inputs, "merged": []}))


EXPORTED: Deeds = {
    "resolution-huge": said_by_an_export(resolution="30000x30000"),  # A19
    "resolution-20000": said_by_an_export(resolution="20000x20000"),
    "resolution-range": said_by_an_export(resolution="400000000..400000000"),
    "resolution-number": said_by_an_export(resolution=7),
    "resolution-words": said_by_an_export(resolution="large"),
    "prompt-unknown": said_by_an_export(prompt="x"),
    "prompt-number": said_by_an_export(prompt=7),
    "tiles-negative": said_by_an_export(max_tiles=-1),
    "tiles-huge": said_by_an_export(max_tiles=HUGE),
    "tokens-zero": said_by_an_export(max_text_tokens=0),
    "tokens-text": said_by_an_export(max_text_tokens="x"),
    "frames-list": said_by_an_export(num_frames=[8]),
    **{f"unime-{k}": d for k, d in no_json(f"{MODEL}/unime.json").items()},
    **not_a_file(f"{MODEL}/unime.json"),
}
LAYOUT: Deeds = {
    **{f"modules-{k}": d for k, d in no_json(f"{MODEL}/modules.json").items()},
    **{
        f"modules-{name}": (lambda content=content: write(f"{MODEL}/modules.json", content))
        for name, content in {
            "numbers": "[1, 2]",
            "path-outside": json.dumps(
                [
                    {"type": "x.Transformer", "path": "../../outside/model"},
                    {"type": "x.Pooling", "path": ""},
                ]
            ),
            "path-number": '[{"type": "x.Transformer", "path": 7}, {"type": "x.Pooling"}]',
        }.items()
    },
}
LINKS: Deeds = {
    "config-linked": lambda: link(CONFIG, "../outside/model/config.json"),
    "weights-loop": lambda: (remove(WEIGHTS), os.symlink("model.safetensors", WEIGHTS)),
}
NAMES = (MODEL, "model.")


def attacks() -> list[Attack]:
    unharmed = other_than("truth.npy")
    return [
        *each({"control": nothing} | DAMAGED, encode, NAMES, unharmed),
        *each(CONFIGS | LAYOUT | LINKS, encode, NAMES, no_vectors),
        *each(PROCESSORS, encode, (*NAMES, "processor"), no_vectors),
        *each(EXPORTED, encode, (*NAMES, "inputs."), no_vectors),
    ]


AREA = Area("models", build_model, attacks, ("control", "pickle-indexed"))
