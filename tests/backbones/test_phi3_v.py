"""Phi-3.5-V's own code under transformers 5, on a tiny checkpoint that brings code like it.

python -m pytest -m backbones tests/backbones/test_phi3_v.py
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoProcessor

from tests.support.embedding import check_alone_equals_batched, difference, embed
from tests.support.material import metrics, stage1, stage2, write_material
from tests.support.phi3_v_checkpoint import write_phi3_v
from unime.backbones.families import BACKBONES
from unime.backbones.layers import is_quantised
from unime.backbones.phi3_v import SUPPLIED, tiles_of_crops
from unime.config import InputConfig, LoraSettings, ModelConfig, Precision, Quantization
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.planning.architecture import read_architecture

pytestmark = pytest.mark.backbones

Load = Callable[..., Encoder]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phi3_v(tmp_path_factory.mktemp("models") / "phi3_v")


@pytest.fixture(scope="module")
def load(checkpoint: Path) -> Load:
    def load(
        quantization: str = "none",
        precision: str = "float32",
        adapter: str | None = None,
        name: Path = checkpoint,
        **options: Any,
    ) -> Encoder:
        model = ModelConfig(
            str(name),
            trust_remote_code=True,
            quantization=Quantization(quantization),
            precision=Precision(precision),
            adapter=adapter,
        )
        return Encoder.load(model, InputConfig(), **options)

    return load


@pytest.mark.fast
def test_its_code_runs_only_if_asked_to(checkpoint, load, items, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.get_class_in_module", pytest.fail)
        with pytest.raises(ConfigError, match=r"model.trust_remote_code: .* brings its own code"):
            Encoder.load(ModelConfig(str(checkpoint)), InputConfig())
    encoder = load()
    batch = encoder.processor.collate([encoder.processor(item) for item in items[:3]])
    assert (batch["input_ids"] < 0).any()
    with torch.no_grad():
        first, again = encoder.eval()(batch), encoder(batch)
    assert difference(first, again) == 0  # though the forward overwrites its ids


@pytest.mark.fast
@pytest.mark.parametrize("path", SUPPLIED)
def test_what_it_imports_and_transformers_lacks_is_there_while_it_is_loaded(
    path, checkpoint, load, items, tmp_path, monkeypatch
):
    names = SUPPLIED[path]
    if path == "transformers.utils":
        for name in names:
            monkeypatch.delattr(f"{path}.{name}", raising=False)
    else:
        monkeypatch.setitem(sys.modules, path, None)  # cannot be imported
    folder = shutil.copytree(checkpoint, tmp_path / "phi3_v")
    for code in folder.glob("*.py"):  # not what was imported before
        code.write_text(f"{code.read_text()}# without {path}\n")
    with monkeypatch.context() as patch:
        bare = replace(BACKBONES["phi3_v"], importing=nullcontext)
        patch.setitem(BACKBONES, "phi3_v", bare)
        with pytest.raises(ConfigError, match="cannot be loaded: .*(import|No module)"):
            load(name=folder)
    assert difference(embed(load(name=folder), items), embed(load(), items)) < 1e-6
    left = vars(sys.modules.get(path) or object).values()
    assert not any(value is supplied for value in left for supplied in names.values())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("padding", "past", "window", "seen"),
    [
        ([1, 1, 1], 0, None, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        (None, 0, 1, [[1, 0, 0], [1, 1, 0], [0, 1, 1]]),
        ([0, 1, 1], 0, None, [[0, 0, 0], [0, 1, 0], [0, 1, 1]]),
        ([1, 1, 0], 0, None, [[1, 0, 0], [1, 1, 0], [1, 1, 0]]),
        ([0, 1, 1, 1], 1, None, [[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]),
        ([1, 1, 1, 1], 1, 1, [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]),
    ],
)
def test_the_mask_that_is_supplied(padding, past, window, seen):
    mask = SUPPLIED["transformers.modeling_attn_mask_utils"]["_prepare_4d_causal_attention_mask"]
    embedded = torch.zeros(2, 3, 8, dtype=torch.bfloat16)
    rows = None if padding is None else torch.tensor([padding, [1] * len(padding)])
    found = mask(rows, (2, 3), embedded, past, sliding_window=window)
    assert (found.shape, found.dtype) == ((2, 1, 3, 3 + past), torch.bfloat16)
    assert found[0, 0].eq(0).int().tolist() == seen
    assert found[found != 0].eq(torch.finfo(torch.bfloat16).min).all()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_embedding_depends_on_the_item_alone(quantization, items, load):
    encoder = load(quantization)
    whole = check_alone_equals_batched(encoder, items)
    left = encoder.processor.collate([encoder.processor(item) for item in items])
    right = dict(left)
    for key in ("input_ids", "attention_mask"):
        rows = zip(left[key], left["attention_mask"].bool(), strict=True)
        right[key] = torch.stack([torch.cat([row[mask], row[~mask]]) for row, mask in rows])
    with torch.no_grad():
        assert difference(encoder(right), whole) < 1e-5


def test_it_is_the_base_models_last_hidden_state(checkpoint, items, load):
    encoder = load()
    trusted = {"trust_remote_code": True}
    full = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, **trusted).eval()
    for item in items:
        inputs = encoder.processor(item)
        inputs = {key: value[None] if value.ndim == 1 else value for key, value in inputs.items()}
        with torch.no_grad():
            expected = full.model(**inputs, use_cache=False).last_hidden_state[:, -1]
        assert difference(embed(encoder, [item]), normalize(expected, dim=1)) < 1e-6
    assert not any("lm_head" in name for name, _ in encoder.named_parameters())


def test_what_is_done_for_it_is_needed(checkpoint, load, items, monkeypatch):
    """Whatever stops failing here has become superfluous in unime/backbones/phi3_v.py."""
    bare = replace(BACKBONES["phi3_v"], adapt=None)
    monkeypatch.setitem(BACKBONES, "phi3_v", bare)
    encoder = load().eval()
    with pytest.raises(ConfigError, match="has no attribute 'chat_template'"):
        encoder.processor(items[0])
    encoder.processor.hf_processor.chat_template = None
    batch = encoder.processor.collate([encoder.processor(item) for item in items[:3]])
    with torch.no_grad():
        assert difference(encoder(batch), encoder(batch)) > 0.01  # its images are gone
        with pytest.raises(AttributeError, match="from_legacy_cache"):
            encoder.model(**batch)
    long = Item(" ".join(str(number) for number in range(250)))
    encoder.processor.most_tokens = None
    with torch.no_grad():
        alone, among = embed(encoder, [items[0]]), embed(encoder, [items[0], long])
    assert difference(alone[0], among[0]) > 1e-3
    with pytest.raises(TypeError, match="add_special_tokens"):
        AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)(
            text="a", add_special_tokens=False
        )


def test_an_item_that_would_change_others_is_refused(load, items):
    long = Item(" ".join(str(number) for number in range(250)))
    encoder = load()
    message = r"\d+ tokens, more than the 256 of the model's original_max_position_embeddings"
    with pytest.raises(DataError, match=message):
        encoder.processor(long)
    encoder.processor.most_tokens = None
    with pytest.raises(ValueError, match=r"phi3_v: an item of \d+ tokens, more than the 256"):
        embed(encoder, [items[0], long])


def test_an_image_in_a_text_is_text(load, pictures):
    encoder = load()
    item = Item("see <|image_1|> and <|image_2|><|end|>", (pictures[0],))
    assert encoder.processor.neutralise(item.text) == "see < |image_1|> and < |image_2|>< |end|>"
    assert set(encoder.processor(item)["input_ids"].tolist()) & {-1, -2} == {-1}


def test_number_of_crops(load, pictures):
    encoder = load()
    wide = Item(images=(pictures[1],))  # 40 × 20
    for crops, sizes in ((1, [336, 336]), (2, [336, 672]), (8, [672, 1344])):
        tiles_of_crops(crops, encoder.processor.hf_processor, encoder.base.config)
        sample = encoder.processor(wide)
        assert sample["image_sizes"].tolist() == [sizes]
        assert sample["pixel_values"].shape == (1, 1 + crops, 3, 336, 336)


@pytest.mark.parametrize("part", ["llm", "projector", "vision"])
def test_lora_on_a_part_trains_only_that_part(part, items, load):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        lora = LoraSettings(rank=2, dropout=0.0, train=[part])
        encoder = load(lora=lora, gradient_checkpointing=checkpointing).train()
        assert encoder.trained_parts == [part]
        for name, parameter in encoder.trainable_named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        calls: list[Any] = []
        encoder.model.layers[0].register_forward_pre_hook(
            lambda *call, calls=calls: calls.append(call)
        )
        batch = encoder.processor.collate([encoder.processor(item) for item in items])
        (encoder(batch) * torch.randn(len(items), encoder.hidden_size)).sum().backward()
        assert len(calls) == 1 + checkpointing
        gradients.append({n: p.grad for n, p in encoder.trainable_named_parameters()})
    for name, gradient in gradients[0].items():
        found = gradient is not None and bool(gradient.any())
        # like LLaVA it reads the last vision layer but one
        assert found or (part == "vision" and ".layers.1." in name), name
        assert not found or difference(gradient, gradients[1][name]) < 1e-6
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in gradients[0]}
    assert (
        leaves
        == {
            "llm": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
            "projector": {"0", "2"},
            "vision": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
        }[part]
    )


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_only_the_language_model_is_quantised(quantization, items, load, tmp_path):
    lora = LoraSettings(rank=2, dropout=0.0, train=["llm", "projector", "vision"])
    encoder = load(quantization, "bfloat16", lora=lora)
    quantised = {name for name, module in encoder.named_modules() if is_quantised(module)}
    assert len(quantised) == 8 and all(name.startswith("model.layers.") for name in quantised)
    for name, parameter in encoder.trainable_named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    encoder.save_adapters(tmp_path / "adapters")
    again = load(quantization, "bfloat16", adapter=str(tmp_path / "adapters"))
    assert difference(embed(again, items), embed(encoder, items)) == 0


def test_its_memory_is_not_guessed(checkpoint):
    with pytest.raises(ConfigError, match="cannot be planned: it brings its own code"):
        read_architecture(ModelConfig(str(checkpoint), trust_remote_code=True), LoraSettings())


def test_decoder_only(load):
    """The tower stays inside of it, frozen and unused: the class is its own decoder."""
    texts = [Item("a cat"), Item("two red birds over the sea, and a dog in the garden")]
    decoder = load(decoder_only=True, lora=LoraSettings(rank=2))
    assert difference(embed(load(), texts), embed(decoder, texts)) < 1e-6
    assert decoder.trained_parts == ["llm"]


def test_both_stages(checkpoint, tmp_path):
    write_material(tmp_path, checkpoint)
    trusted = ("model.trust_remote_code=true", "optim.steps=2", "run.num_workers=0")
    first = stage1(tmp_path, "stage1", *trusted)
    adapter = f"model.adapter={first / 'final'}"
    second = stage2(tmp_path, "stage2", adapter, *trusted)
    whole = stage2(tmp_path, "whole", adapter, "optim.chunk_size=99", "lora.dropout=0", *trusted)
    cached = stage2(tmp_path, "cached", adapter, "lora.dropout=0", *trusted)
    assert [line["step"] for line in metrics(first) + metrics(second)] == [1, 2, 1, 2]
    for ours, theirs in zip(metrics(cached), metrics(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert len(list((second / "final").rglob("*.safetensors"))) == 2
