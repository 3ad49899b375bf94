"""Released models' layouts give the vectors of the same weights in today's layout, or are refused.

./launch.sh test tests/models/test_hub.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from tests.support.embedding import difference, embed
from tests.support.embedding import load_exact as load
from tests.support.exported_runs import shake
from tests.support.published.layouts import (
    add_to_hub_cache,
    of_peft_1,
    of_sentence_transformers,
    of_transformers_4,
    read,
    write,
)
from unime.config import InputConfig, LoraSettings, ModelConfig, Quantization
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.models.hub import locate

VLM2VEC = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj"]
VLM2VEC += ["v_proj"]  # its arguments.py
DORA = LoraSettings(rank=4, alpha=16, dropout=0.1, use_dora=True)
BASE = "Qwen/Qwen2-VL-2B-Instruct"


def slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.backbones)


@pytest.fixture(scope="module")
def trained(
    load_tiny: Callable[..., Encoder], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Encoder]]:
    """``trained("qwen2_vl", ["llm"])``: the folder of a run's adapters, and their encoder."""
    made: dict[tuple[str, ...], tuple[Path, Encoder]] = {}

    def train(family: str, *parts: str) -> tuple[Path, Encoder]:
        if (family, *parts) not in made:
            encoder = shake(load_tiny(family, lora=replace(DORA, train=list(parts))))
            folder = tmp_path_factory.mktemp("run") / "final"
            encoder.save_adapters(folder)
            made[family, *parts] = folder, encoder
        return made[family, *parts]

    return train


@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("family", ["llava_next", slow("llava_onevision"), "qwen2_vl"])
def test_full_weights_of_transformers_4(
    family, chat_template, items, load_tiny, tiny_model, tmp_path
):
    old = of_transformers_4(tiny_model(family), tmp_path / "old", chat_template)
    if not chat_template and family != "llava_next":  # whose format families.py knows
        with pytest.raises(ConfigError, match="the processor has no chat template"):
            embed(load(old), items)
        return
    found = embed(load(old), items)
    assert difference(found, embed(load_tiny(family), items)) < 1e-5


@pytest.mark.parametrize(
    "family", [slow("llava_next"), slow("llava_onevision"), slow("qwen2_vl"), "qwen3_vl"]
)
def test_the_core_alone_has_all_that_is_needed(family, items, load_tiny, tiny_model, tmp_path):
    AutoModel.from_pretrained(tiny_model(family)).save_pretrained(tmp_path)
    encoder = load(tmp_path, processor=str(tiny_model(family)))
    assert difference(embed(encoder, items), embed(load_tiny(family), items)) < 1e-5


def test_no_processor(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "bare")
    (folder / "processor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"model.processor: .*bare has none \(processor_config"):
        load(folder)
    load(folder, processor=str(tiny_model("qwen2_vl")))


@pytest.mark.backbones
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised(quantization, items, load_tiny, tiny_model, trained, tmp_path):
    run, _ = trained("qwen2_vl", "llm")
    expected = embed(load_tiny("qwen2_vl", quantization, adapter=run), items)
    old = of_transformers_4(tiny_model("qwen2_vl"), tmp_path / "old")
    released = of_peft_1(run / "00-rank4", tmp_path / "released", str(old), VLM2VEC)
    encoder = load(released, quantization=Quantization(quantization))
    assert difference(embed(encoder, items), expected) < 1e-5


TARGETS: dict[str, tuple[str, list[str], list[str] | str]] = {
    "VLM2Vec's list": ("qwen2_vl", ["llm"], [*VLM2VEC, "gate_proj", "up_proj"]),
    "a pattern of old names": (
        "qwen2_vl",
        ["llm", "vision"],
        r"^(model\.layers.*(q|k|v|o|gate|up|down)_proj|visual\.blocks.*(qkv|proj|fc1|fc2))$",
    ),
    # CLIP's projections have the same names: they are adapted in the first and not in the second
    "a list for both": ("llava_next", ["llm", "vision"], [*VLM2VEC, "fc1", "fc2", "gate_proj"]),
    "a list for one": ("llava_next", ["llm"], [*VLM2VEC, "gate_proj", "up_proj"]),
}


@pytest.mark.parametrize("case", [*list(TARGETS)[:2], *map(slow, list(TARGETS)[2:])])
def test_adapters_with_old_names(case, items, load_tiny, tiny_model, trained, tmp_path, empty_hub):
    family, parts, targets = TARGETS[case]
    run, encoder = trained(family, *parts)
    expected = embed(encoder, items)
    assert difference(expected, embed(load_tiny(family), items)) > 1e-2
    base = BASE if family == "qwen2_vl" else "llava-hf/llava-v1.6-mistral-7b-hf"
    old_base = of_transformers_4(tiny_model(family), tmp_path / "base")
    add_to_hub_cache(empty_hub, base, old_base)
    released = of_peft_1(run / "00-rank4", tmp_path / "released", base, targets, family)
    found = load(released)
    assert difference(embed(found, items), expected) < 1e-5
    assert difference(embed(load(base, released), items), expected) < 1e-5
    assert found.base_description["name"] == base
    found.save_adapters(tmp_path / "again")  # in today's names
    assert difference(embed(load(old_base, tmp_path / "again"), items), expected) < 1e-5


def test_ranks_and_alphas_by_old_names(items, load_tiny, tiny_model, trained, tmp_path):
    run, encoder = trained("qwen2_vl", "llm")
    expected = embed(encoder, items)
    patterns = {
        "r": 8,
        "rank_pattern": {r"model.layers.\d+.self_attn.q_proj": 4, r"layers.\d+.*_proj": 4},
        "lora_alpha": 1,
        "alpha_pattern": {r"model.layers.0.mlp.up_proj": 16, r".*_proj": 16},
    }
    base = str(tiny_model("qwen2_vl"))
    released = of_peft_1(run / "00-rank4", tmp_path / "a", base, [*VLM2VEC], **patterns)
    assert difference(embed(load(released), items), expected) < 1e-5


def test_an_adapter_of_another_size(tiny_model, trained, tmp_path):
    run, _ = trained("qwen2_vl", "llm")
    base = str(tiny_model("qwen2_vl"))
    released = of_peft_1(run / "00-rank4", tmp_path, base, VLM2VEC, r=2)
    with pytest.raises(ConfigError, match=r"adapter_model.safetensors: .*size mismatch") as error:
        load(released)
    assert "\n" not in str(error.value)


def test_a_hub_id_and_its_adapter(items, tiny_model, trained, tmp_path, empty_hub):
    run, encoder = trained("qwen2_vl", "llm")
    add_to_hub_cache(empty_hub, BASE, of_transformers_4(tiny_model("qwen2_vl"), tmp_path / "base"))
    released = of_peft_1(run / "00-rank4", tmp_path / "released", BASE, VLM2VEC)
    for file in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tmp_path / "base" / file, released / file)
    shutil.copyfile(tmp_path / "base/chat_template.json", released / "chat_template.json")
    add_to_hub_cache(empty_hub, "TIGER-Lab/VLM2Vec-Qwen2VL-2B", released, "1" * 40)
    for name, adapter in (
        ("TIGER-Lab/VLM2Vec-Qwen2VL-2B", None),
        (BASE, "TIGER-Lab/VLM2Vec-Qwen2VL-2B"),
        (BASE, f"TIGER-Lab/VLM2Vec-Qwen2VL-2B@{'1' * 40}"),
    ):
        assert difference(embed(load(name, adapter), items), embed(encoder, items)) < 1e-5
    found = locate(ModelConfig("TIGER-Lab/VLM2Vec-Qwen2VL-2B")).describe()
    assert found["base"] == {"name": BASE, "commit": "0" * 40}
    assert found["adapter"] == {"name": "TIGER-Lab/VLM2Vec-Qwen2VL-2B", "commit": "1" * 40}
    assert found["processor"] == found["adapter"]  # the release brings its own
    with pytest.raises(ConfigError, match="nobody/here cannot be loaded: .* hub at v2 or its ca"):
        locate(ModelConfig("nobody/here", revision="v2"))
    with pytest.raises(ConfigError, match="model.adapter: nobody/here cannot be loaded"):
        load(BASE, "nobody/here@v2")


def test_our_runs_are_models_too(items, tiny_model, trained, tmp_path):
    run, encoder = trained("qwen2_vl", "llm")
    assert difference(embed(load(run), items), embed(encoder, items)) < 1e-5
    both = f"model.adapter: got '{run}', but model.name: '{run}' is an adapter already, of '.*'"
    with pytest.raises(ConfigError, match=both):
        load(run, run)
    nested = shutil.copytree(run, tmp_path / "nested")
    description, theirs = read(nested / "encoder.json"), "/home/them/qwen"
    for base, message in (
        ({"name": str(run)}, "nested is an adapter of .*, another adapter"),
        ({"name": theirs, "folder": theirs}, f"an adapter; its base is the folder {theirs}, wh"),
        ({}, "nested/encoder.json names no base model"),
    ):
        write(nested / "encoder.json", description | {"base": base})
        with pytest.raises(ConfigError, match=message):
            load(nested)
    shutil.copyfile(run / "00-rank4/adapter_config.json", tmp_path / "adapter_config.json")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="has weights and adapter_config.json: name the base in"):
        load(tmp_path)


WRONG_NAMES: dict[str, Callable[[str], set[str]]] = {
    r"layers.7.mlp.* fits no module of": lambda name: {
        name.replace("layers.0.mlp", "layers.7.mlp")
    },
    r"fits the same module as another": lambda name: {name, name.replace("model.model.", "model.")},
    r"lora_C.weight is no LoRA weight": lambda name: {name.replace(".lora_A", ".lora_C")},
    r"k_proj.* fits .*k_proj, .*k_proj": lambda name: {name.replace("layers.0.self_attn.", "")},
}


@pytest.mark.parametrize("message", WRONG_NAMES)
def test_names_that_do_not_fit(message, tiny_model, trained, tmp_path):
    run, _ = trained("qwen2_vl", "llm")
    released = of_peft_1(run / "00-rank4", tmp_path, str(tiny_model("qwen2_vl")), VLM2VEC)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path).items()
    wrong = {name: old.clone() for key, old in tensors for name in WRONG_NAMES[message](key)}
    save_file(wrong, path)
    with pytest.raises(ConfigError, match=f"adapter_model.safetensors: .*{message}"):
        load(released)


def test_pickles_are_refused(items, tiny_model, trained, tmp_path):
    run, encoder = trained("qwen2_vl", "llm")
    released = of_peft_1(run / "00-rank4", tmp_path / "a", str(tiny_model("qwen2_vl")), VLM2VEC)
    safe = released / "adapter_model.safetensors"
    torch.save(load_file(safe), released / "adapter_model.bin")
    safe.unlink()
    with pytest.raises(ConfigError, match=r"adapter_model.bin is a pickle, .*pickled_adapter=true"):
        load(released)
    found = embed(load(released, pickled_adapter=True), items)
    assert difference(found, embed(encoder, items)) < 1e-5
    torch.save(Path("no tensor"), released / "adapter_model.bin")
    with pytest.raises(ConfigError, match="adapter_model.bin: Weights only load failed"):
        load(released, pickled_adapter=True)
    full = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "full")
    (full / "model.safetensors").rename(full / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="found only pytorch_model.bin: pickles, which are not"):
        load(full)


def test_incomplete_weights_are_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "cut")
    file = folder / "model.safetensors"
    weights = load_file(file)

    def without(part: str) -> dict[str, torch.Tensor]:
        return {key: value for key, value in weights.items() if part not in key}

    for changed, message in (
        (without("layers.1.mlp"), r"lacks weights of Qwen2VL.*: 3, first model.*\.down_proj"),
        (
            weights | {"text_projection.weight": torch.zeros(4, 64)},
            "has weights not of .*: 1, first text_projection.w",
        ),
        (
            weights | {"model.norm.weight": torch.zeros(3)},
            "has weights of another size than .*: 1, first mo",
        ),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=f"cut {message}"):
            load(folder)
    save_file(without("lm_head"), file, metadata={"format": "pt"})
    load(folder)


@pytest.fixture(scope="module")
def modules(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modules") / "qwen3-vl-embedding"
    return of_sentence_transformers(tiny_model("qwen3_vl"), folder)


def test_it_is_the_sentence_transformer(modules, pictures):
    """Qwen3-VL-Embedding's chat: the instruction is the system turn, the pooled token the last of
    the generation prompt (QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_embedding.py)."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(modules), device="cpu", model_kwargs={"dtype": torch.float32})
    encoder = load(modules, inputs=InputConfig(prompt="instruct"))
    shown = Image.open(pictures[1]).convert("RGB")
    default, own = "Represent the user's input.", "Find the animal."
    for item, given in (
        (Item("a cat"), "a cat"),
        (Item(images=(pictures[1],)), shown),
        (Item("a cat", (pictures[1],)), {"image": shown, "text": "a cat"}),
    ):
        for instruction in ("", own):
            asked = replace(item, instruction=instruction)
            expected = peer.encode([given], prompt=instruction or default, convert_to_tensor=True)
            assert difference(embed(encoder, [asked]), expected) < 1e-5


POOLING, OUTPUTS = "1_Pooling/config.json", "sentence_bert_config.json"
OTHER_MODULES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    r"modules.json: got .*, Dense, expected": (
        "modules.json",
        lambda listed: [*listed[:2], {"type": "sentence_transformers.models.Dense"}],
    ),
    r"modules.json: got Transformer, expected": ("modules.json", lambda listed: listed[:1]),
    r"modules.json: expected a JSON list": ("modules.json", lambda listed: {}),
    r"1_Pooling/config.json: pooling is \['mean'\], expected lasttoken": (
        POOLING,
        lambda pooling: pooling | {"pooling_mode": "mean"},
    ),
    r"pooling is \['lasttoken', 'max'\]": (
        POOLING,
        lambda pooling: pooling | {"pooling_mode": ["lasttoken", "max"]},
    ),
    r"pooling is \['cls_token'\]": (
        POOLING,
        lambda _: {"pooling_mode_cls_token": True, "pooling_mode_lasttoken": False},
    ),
    r"image takes pooler_output of get_image_features": (
        OUTPUTS,
        lambda _: {"modality_config": {"image": {
            "method": "get_image_features", "method_output_name": "pooler_output",
        }}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", OTHER_MODULES)
def test_other_modules_are_refused(message, modules, tmp_path):
    for name in ("modules.json", POOLING, OUTPUTS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(modules / name, tmp_path / name)
    file, change = OTHER_MODULES[message]
    write(tmp_path / file, change(read(tmp_path / file)))
    with pytest.raises(ConfigError, match=f"model.name: .*{message}"):
        locate(ModelConfig(str(tmp_path)))


def test_old_pooling_flags_and_no_normalisation(modules, tmp_path):
    folder = shutil.copytree(modules, tmp_path / "old")
    write(folder / "modules.json", read(folder / "modules.json")[:2])
    flags = {"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}
    width = {"word_embedding_dimension": 64, "include_prompt": True}
    write(folder / "1_Pooling/config.json", width | flags)
    assert locate(ModelConfig(str(folder))).base.folder == folder
