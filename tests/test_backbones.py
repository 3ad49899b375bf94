"""What the table of families promises: LoRA and quantisation reach exactly the parts they should.

python -m pytest tests/test_backbones.py
"""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from tests.embedding import difference, embed
from tests.tiny_models import FAMILIES, TEXT
from unime.backbones import BACKBONES, is_quantised
from unime.config import ConfigError, InputConfig, LoraSettings, ModelConfig, Quantization
from unime.encoder import Encoder

EVERY_PART = LoraSettings(rank=4, dropout=0.0, train=["llm", "projector", "vision"])
QUIRKY = (*FAMILIES, "idefics3")


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_every_part_belongs_to_itself(backbone):
    roots = {"llm": (backbone.language_model,), "projector": backbone.projector}
    for part, paths in (roots | {"vision": backbone.vision}).items():
        for path in paths:
            assert backbone.part_of(path) == backbone.part_of(f"{path}.layers.0.fc") == part
    assert backbone.part_of("lm_head") is backbone.part_of("model2.layers") is None


def test_lora_finds_every_linear_layer_and_nothing_else(load_tiny):
    for family in QUIRKY:
        encoder = load_tiny(family, lora=EVERY_PART)
        wrapped = {name.split(".lora_")[0] for name, _ in encoder.trainable_named_parameters()}
        kinds = {name.rpartition(".")[2] for name in wrapped if "language_model" in name}
        seven = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        assert kinds == seven or family == "idefics3"
        plain = [
            name
            for name, module in encoder.named_modules()
            if type(module) is torch.nn.Linear and "lora_" not in name
            if not name.endswith("base_layer")
        ]
        assert plain == [], family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_only_the_language_model_is_quantised(family, quantization, load_tiny):
    encoder = load_tiny(family, quantization, "bfloat16", lora=EVERY_PART)
    quantised = {name for name, module in encoder.named_modules() if is_quantised(module)}
    assert len(quantised) == 14  # 7 in each of 2 layers
    assert all(name.startswith("model.language_model.layers.") for name in quantised)
    for name, parameter in encoder.named_parameters():
        expected = torch.float32 if "lora_" in name else torch.bfloat16
        assert parameter.dtype == expected or name.removesuffix(".weight") in quantised, name
    assert f"14 linear layers in {quantization}, the rest in bfloat16" in encoder.describe()


def test_nf4_computes_with_the_weights_it_rounded_to(items, load_tiny):
    quantised, plain = load_tiny("qwen3_vl", "nf4"), load_tiny("qwen3_vl")
    for name, module in quantised.named_modules():
        if is_quantised(module):
            state = module.weight.quant_state
            assert state.quant_type == "nf4" and state.nested  # double quantisation
            rounded = dequantize_4bit(module.weight.data, state)
            assert 0 < difference(rounded, plain.get_submodule(name).weight) < 0.2
            plain.get_submodule(name).weight.copy_(rounded)
    assert difference(embed(quantised, items), embed(plain, items)) < 1e-5


def test_int8_is_close(items, load_tiny):
    exact = embed(load_tiny("qwen3_vl"), items)
    assert (embed(load_tiny("qwen3_vl", "int8"), items) * exact).sum(dim=1).min() > 0.99


def test_4_bit_weights_do_not_change_in_evaluation(items, load_tiny):
    """Where the CPU has AVX512-BF16, bitsandbytes repacks weights in evaluation, for good."""
    encoder = load_tiny("qwen2_vl", "nf4", lora=EVERY_PART)
    samples = encoder.processor.collate([encoder.processor(item) for item in items])
    before = encoder.train()(samples).detach()
    assert difference(embed(encoder, items), before) < 1e-6
    assert difference(encoder.train()(samples).detach(), before) == 0


def test_a_skip_list_that_skips_nothing_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr("unime.backbones.Backbone.not_quantised", ["vision_tower", "lm_head"])
    model = ModelConfig(name=str(tiny_model("llava")), quantization=Quantization.nf4)
    with pytest.raises(ConfigError, match=r"layers outside model.language_model were quantised"):
        Encoder.load(model, InputConfig())
    monkeypatch.setattr("unime.backbones.Backbone.not_quantised", ["model", "lm_head"])
    with pytest.raises(ConfigError, match=r"no layer of model.language_model became nf4"):
        Encoder.load(model, InputConfig())


def test_a_family_that_is_not_listed(items, load_tiny, monkeypatch):
    expected = embed(load_tiny("llava_next", "nf4"), items)
    template = BACKBONES["llava_next"].chat_template
    monkeypatch.delitem(BACKBONES, "llava_next")
    with pytest.warns(UserWarning, match="assuming language model 'model.language_model'"):
        encoder = load_tiny("llava_next", "nf4", lora=EVERY_PART)
    assert encoder.backbone.vision == ("model.vision_tower",)
    assert encoder.backbone.projector == ("model.multi_modal_projector",)
    assert encoder.trained_parts == ["llm", "projector", "vision"]
    encoder.processor.hf_processor.chat_template = template
    assert difference(embed(encoder, items), expected) < 1e-6


def test_loading_makes_no_noise(load_tiny, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        load_tiny("qwen2_vl", "nf4", lora=EVERY_PART)
    assert not caplog.records


def test_widths_that_bitsandbytes_decodes_wrongly_are_refused(tiny_model, monkeypatch):
    monkeypatch.setitem(TEXT, "intermediate_size", 96)
    with pytest.raises(
        ConfigError, match="nf4 on CPU needs widths that 64 divides, .*down_proj has 96"
    ):
        Encoder.load(ModelConfig(name=str(tiny_model("qwen3_vl", seed=96))), InputConfig())
