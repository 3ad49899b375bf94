"""What the table of families promises: LoRA and quantisation reach exactly the parts they should.

python -m pytest tests/backbones/test_backbones.py
"""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoConfig

from tests.support.embedding import difference, embed
from tests.support.tiny.families import TEXT
from tests.support.tiny.models import WITH_PHI3_V, lora_parts
from unime.backbones.families import BACKBONES, backbone_of
from unime.backbones.layers import is_quantised
from unime.config import InputConfig, LoraSettings, ModelConfig, Quantization
from unime.errors import ConfigError
from unime.models.encoder import Encoder


def every_part(family: str) -> LoraSettings:
    return LoraSettings(rank=4, dropout=0.0, train=lora_parts(family))


EVERY_PART = every_part("llava")


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_every_part_belongs_to_itself(backbone):
    roots = {"llm": (backbone.language_model,), "projector": backbone.projector}
    for part, paths in (roots | {"vision": backbone.vision}).items():
        for path in paths:
            assert backbone.part_of(path) == backbone.part_of(f"{path}.layers.0.fc") == part
    assert backbone.part_of("lm_head") is backbone.part_of("model2.layers") is None


SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
FOUR = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}  # Phi has some of them as one


def layers_of(family: str) -> set[str]:
    """What the linear layers of a decoder layer are called."""
    return FOUR if family.startswith("phi") else SEVEN


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_lora_finds_every_linear_layer_and_nothing_else(family, load_tiny):
    encoder = load_tiny(family, lora=every_part(family))
    part_of = encoder.backbone.part_of
    wrapped = {name.split(".lora_")[0] for name, _ in encoder.trainable_named_parameters()}
    kinds = {name.rpartition(".")[2] for name in wrapped if part_of(name) == "llm"}
    assert kinds == layers_of(family)
    assert {part_of(name) for name in wrapped} == set(lora_parts(family))
    plain = [
        name
        for name, module in encoder.named_modules()
        if type(module) is torch.nn.Linear and "lora_" not in name
        if not name.endswith("base_layer")
    ]
    assert [name for name in plain if not name.startswith(encoder.backbone.unused)] == []


@pytest.mark.parametrize("family", WITH_PHI3_V)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_only_the_language_model_is_quantised(family, quantization, load_tiny):
    encoder = load_tiny(family, quantization, "bfloat16", lora=every_part(family))
    quantised = {name for name, module in encoder.named_modules() if is_quantised(module)}
    count = 2 * len(layers_of(family))
    assert len(quantised) == count
    layers = f"{encoder.backbone.language_model}.layers."
    assert all(name.startswith(layers) for name in quantised)
    for name, parameter in encoder.named_parameters():
        expected = torch.float32 if "lora_" in name else torch.bfloat16
        assert parameter.dtype == expected or name.removesuffix(".weight") in quantised, name
    assert f"{count} linear layers in {quantization}, the rest in bfloat16" in encoder.describe()


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


@pytest.mark.parametrize(
    "family, quantization, precision",
    [
        ("qwen2_vl", "none", "float16"),
        ("qwen2_vl", "none", "bfloat16"),
        ("qwen3_vl", "int8", "float32"),
    ],
)
def test_fewer_bits_are_close(family, quantization, precision, items, load_tiny):
    exact = embed(load_tiny(family), items)
    found = embed(load_tiny(family, quantization, precision), items)
    assert found.dtype == torch.float32 and (found * exact).sum(dim=1).min() > 0.99


def test_4_bit_weights_do_not_change_in_evaluation(items, load_tiny):
    """Where the CPU has AVX512-BF16, bitsandbytes repacks weights in evaluation, for good."""
    encoder = load_tiny("qwen2_vl", "nf4", lora=EVERY_PART)
    samples = encoder.processor.collate([encoder.processor(item) for item in items])
    before = encoder.train()(samples).detach()
    assert difference(embed(encoder, items), before) < 1e-6
    assert difference(encoder.train()(samples).detach(), before) == 0


def test_a_skip_list_that_skips_nothing_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(
        "unime.backbones.families.Backbone.not_quantised", ["vision_tower", "lm_head"]
    )
    model = ModelConfig(name=str(tiny_model("llava")), quantization=Quantization.nf4)
    with pytest.raises(ConfigError, match=r"layers outside model.language_model were quantised"):
        Encoder.load(model, InputConfig())
    monkeypatch.setattr("unime.backbones.families.Backbone.not_quantised", ["model", "lm_head"])
    with pytest.raises(ConfigError, match=r"no layer of model.language_model became nf4"):
        Encoder.load(model, InputConfig())


def test_a_family_that_is_not_listed(items, load_tiny, monkeypatch):
    expected = embed(load_tiny("llava_next", "nf4"), items)
    template = BACKBONES["llava_next"].chat_template
    others = {name: of for name, of in BACKBONES.items() if name != "llava_next"}
    monkeypatch.setattr("unime.backbones.families.BACKBONES", others)  # which keeps its own order
    monkeypatch.setattr(
        Encoder, "_try_out", lambda *_: None
    )  # without its chat template, see below
    with pytest.warns(UserWarning, match="not in unime/backbones/families.py; assuming") as warned:
        encoder = load_tiny("llava_next", "nf4", lora=EVERY_PART)
    for assumed in (
        "AutoModelForImageTextToText, language model 'model.language_model', vision",
        "vision ['model.vision_tower'], projector ['model.multi_modal_projector']",
        "a flat list of images per text, image inputs that join along their first dimension",
        "no input that the model needs without noticing, and a processor with a chat template",
    ):
        assert assumed in str(warned[0].message)
    assert encoder.backbone.vision == ("model.vision_tower",)
    assert encoder.backbone.projector == ("model.multi_modal_projector",)
    assert encoder.trained_parts == ["llm", "projector", "vision"]
    encoder.processor.hf_processor.chat_template = template
    assert difference(embed(encoder, items), expected) < 1e-6


@pytest.mark.backbones
def test_a_family_of_another_auto_class_that_is_not_listed(tiny_model, monkeypatch):
    others = {name: of for name, of in BACKBONES.items() if name != "internvl"}
    monkeypatch.setattr("unime.backbones.families.BACKBONES", others)
    monkeypatch.setattr("unime.backbones.families.AUTO_CLASSES", ("AutoModelForMultimodalLM",))
    config = AutoConfig.from_pretrained(tiny_model("internvl"))
    with pytest.warns(UserWarning, match="assuming AutoModelForMultimodalLM, language model"):
        assert backbone_of(config).auto_class == "AutoModelForMultimodalLM"
    monkeypatch.setattr("unime.backbones.families.AUTO_CLASSES", ("AutoModelForCausalLM",))
    with pytest.raises(ConfigError, match="'internvl' is known to none of AutoModelForCausalLM"):
        backbone_of(config)


def test_what_cannot_see_is_refused():
    config = AutoConfig.for_model("llama", **TEXT)
    with pytest.raises(ConfigError, match="nothing in LlamaForCausalLM beside its decoder 'model'"):
        backbone_of(config)


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
