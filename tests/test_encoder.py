"""The encoder on tiny models of every family: what is embedded depends on the item alone.

python -m pytest tests/test_encoder.py
"""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.tiny_models import FAMILIES
from unime.backbones import BACKBONES, derive_backbone, is_quantised
from unime.config import ConfigError, LoraSettings, ModelConfig, Quantization
from unime.encoder import Encoder, InputConfig
from unime.items import Item

EVERY_PART = LoraSettings(rank=4, dropout=0.0, train=["llm", "projector", "vision"])
QUIRKY = (*FAMILIES, "idefics3")


@pytest.fixture(scope="session")
def items(pictures):
    """Texts, images, both and several images, of different sizes."""
    return [
        Item("a cat"),
        Item(images=(pictures[1],)),
        Item("What is this, and what is it for? Say it in one sentence.", (pictures[2],)),
        Item("Compare these two.", (pictures[0], pictures[3])),
        Item(images=(pictures[4], pictures[1])),
        Item("two red birds over the sea, and a dog in the garden"),
    ]


def embed(encoder, items, indices=None):
    samples = [encoder.processor(item) for item in items]
    chosen = [samples[i] for i in (range(len(samples)) if indices is None else indices)]
    encoder.eval()
    with torch.no_grad():
        return encoder(encoder.processor.collate(chosen))


def difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("family", QUIRKY)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_embedding_depends_on_the_item_alone(family, quantization, items, load_tiny):
    encoder = load_tiny(family, quantization)
    whole = embed(encoder, items)
    assert whole.dtype == torch.float32 and whole.shape == (len(items), encoder.hidden_size)
    assert difference(whole.norm(dim=1), torch.ones(len(items))) < 1e-6
    assert (whole @ whole.T).fill_diagonal_(0).max() < 0.99  # the items are told apart
    alone = torch.cat([embed(encoder, [item]) for item in items])
    assert difference(whole, alone) < 1e-5
    order = [4, 0, 5, 2, 1, 3]
    assert difference(embed(encoder, items, order), whole[order]) < 1e-5
    halves = torch.cat([embed(encoder, items, part) for part in ([0, 5], [1, 4, 2, 3])])
    assert difference(halves, whole[[0, 5, 1, 4, 2, 3]]) < 1e-5


@pytest.mark.parametrize("family", QUIRKY)
def test_right_padding_gives_the_same_vectors(family, items, load_tiny):
    encoder = load_tiny(family)
    left = encoder.processor.collate([encoder.processor(item) for item in items])
    right = dict(left)
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in left:
            rows = zip(left[key], left["attention_mask"].bool(), strict=True)
            right[key] = torch.stack([torch.cat([row[mask], row[~mask]]) for row, mask in rows])
    assert right["attention_mask"][:, 0].all() and not right["attention_mask"].all()
    with torch.no_grad():
        assert difference(encoder.eval()(left), encoder(right)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_base_models_last_hidden_state(family, items, load_tiny, tiny_model):
    encoder = load_tiny(family)
    full = AutoModelForImageTextToText.from_pretrained(tiny_model(family)).eval()
    inputs = encoder.processor(items[2])
    inputs = {key: value[None] if value.ndim == 1 else value for key, value in inputs.items()}
    with torch.no_grad():
        expected = full.model(**inputs).last_hidden_state[:, -1]
    expected = torch.nn.functional.normalize(expected, dim=1)
    assert difference(embed(encoder, [items[2]]), expected) < 1e-6
    assert not any("lm_head" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["llm", "projector", "vision"])
def test_lora_on_a_part_trains_only_that_part(family, part, items, load_tiny):
    torch.manual_seed(0)
    lora = LoraSettings(rank=2, dropout=0.0, train=[part])
    encoder = load_tiny(family, lora=lora)
    for name, parameter in encoder.trainable_named_parameters():
        assert parameter.dtype == torch.float32
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert encoder.trained_parts == [part]
    batch = encoder.processor.collate([encoder.processor(item) for item in items])
    encoder.train()
    (encoder(batch) * torch.randn(len(items), encoder.hidden_size)).sum().backward()
    with_gradient, without = set(), set()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad or parameter.grad is None
        found = parameter.grad is not None and parameter.grad.abs().sum() > 0
        if "lora_" in name:
            (with_gradient if found else without).add(name)
        else:
            assert not found
    assert with_gradient
    # LLaVA and LLaVA-NeXT read the last vision layer but one, so their last has no gradient
    assert all("layers.1." in name and part == "vision" for name in without)
    assert not without or family in ("llava", "llava_next")


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


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_only(family, load_tiny):
    texts = [Item("a cat"), Item("two red birds over the sea, and a dog in the garden")]
    lora = LoraSettings(rank=2)
    full = load_tiny(family, lora=lora)
    decoder = load_tiny(family, lora=lora, decoder_only=True)
    assert difference(embed(full, texts), embed(decoder, texts)) < 1e-5
    inside = [name for name, _ in full.named_parameters() if "language_model" in name]
    assert len(list(decoder.parameters())) == len(inside) < len(list(full.parameters()))
    base = decoder._unregistered[0]
    decoder.to("meta")
    for name, parameter in base.named_parameters():
        assert parameter.is_meta == name.startswith("model.language_model."), name


def test_decoder_only_refuses_images(items, load_tiny):
    encoder = load_tiny("llava", decoder_only=True)
    with pytest.raises(ValueError, match="takes texts only, got pixel_values"):
        embed(encoder, items)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_missing_token_types_are_refused(family, items, load_tiny):
    encoder = load_tiny(family)
    batch = encoder.processor.collate([encoder.processor(item) for item in items])
    assert batch["mm_token_type_ids"].sum() > 0
    del batch["mm_token_type_ids"]
    with pytest.raises(ValueError, match=f"{family} needs mm_token_type_ids, which is missing"):
        encoder(batch)


@pytest.mark.parametrize("decoder_only", [False, True])
def test_gradient_checkpointing_changes_no_gradient(decoder_only, items, load_tiny):
    chosen = [item for item in items if not (decoder_only and item.images)]
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = load_tiny(
            "qwen2_5_vl", "nf4", lora=LoraSettings(rank=2, dropout=0.0),
            decoder_only=decoder_only, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        batch = encoder.processor.collate([encoder.processor(item) for item in chosen])
        encoder.train()(batch)[:, 0].sum().backward()
        gradients.append([p.grad for _, p in encoder.trainable_named_parameters()])
    assert all(gradient is not None for gradient in gradients[1])
    assert all(difference(a, b) < 1e-6 for a, b in zip(*gradients, strict=True))


def test_a_family_that_is_not_listed(items, load_tiny, monkeypatch):
    encoder = load_tiny("llava_next")
    expected = embed(encoder, items)
    template = BACKBONES["llava_next"].chat_template
    monkeypatch.delitem(BACKBONES, "llava_next")
    with pytest.warns(UserWarning, match="assuming language model 'model.language_model'"):
        derived = derive_backbone(encoder._unregistered[0].config)
    assert derived.vision == ("model.vision_tower",)
    assert derived.projector == ("model.multi_modal_projector",)
    encoder.processor.hf_processor.chat_template = template
    assert difference(embed(encoder, items), expected) == 0


def test_loading_makes_no_noise(load_tiny, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        load_tiny("qwen2_vl", "nf4", lora=EVERY_PART)
    assert not caplog.records


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="model.name: .*nowhere cannot be loaded"):
        Encoder.load(ModelConfig(name=str(tmp_path / "nowhere")), InputConfig())
