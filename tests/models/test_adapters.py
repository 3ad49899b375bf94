"""Adapters are stacked, saved and loaded without changing what the encoder says.

python -m pytest tests/models/test_adapters.py
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests.support.embedding import difference, embed
from tests.support.exported_runs import shake
from unime.backbones.layers import is_quantised
from unime.config import InputConfig, LoraSettings, ModelConfig
from unime.config.model import check_trainable
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.models.adapter_files import WEIGHTS, adapter_folders

TEXTS = [Item("a cat"), Item("two red birds over the sea, and a dog in the garden")]
FIRST = LoraSettings(rank=8, alpha=16, dropout=0.3)
SECOND = LoraSettings(rank=2, alpha=8, dropout=0.1, train=["llm", "projector", "vision"])

DORA = LoraSettings(rank=2, dropout=0.0, use_dora=True, use_rslora=True)


def check_same_weights(first, second):
    """Of the first adapter in two folders."""
    weights, others = (load_file(folder / "00-rank8" / WEIGHTS) for folder in (first, second))
    assert weights.keys() == others.keys()
    assert all(torch.equal(others[key], tensor) for key, tensor in weights.items())


@pytest.fixture(scope="module")
def first(load_tiny, tmp_path_factory):
    """The folder of a stage 1 adapter, trained on the decoder alone of a 4-bit base."""
    encoder = load_tiny("qwen2_vl", "nf4", lora=FIRST, decoder_only=True)
    folder = tmp_path_factory.mktemp("stage1") / "adapter"
    shake(encoder).save_adapters(folder)
    return folder, embed(encoder, TEXTS)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_one_adapter_comes_back(quantization, items, load_tiny, tmp_path):
    encoder = load_tiny("llava_next", quantization)
    base = embed(encoder, items)
    encoder = shake(load_tiny("llava_next", quantization, lora=SECOND))
    before = embed(encoder, items)
    assert difference(before, base) > 1e-2
    encoder.save_adapters(tmp_path / "saved")
    after = load_tiny("llava_next", quantization, adapter=tmp_path / "saved")
    assert list(after.trainable_named_parameters()) == []
    assert difference(embed(after, items), before) < 1e-6


def test_the_decoders_adapter_serves_the_whole_model(first, items, load_tiny):
    folder, expected = first
    whole = load_tiny("qwen2_vl", "nf4", adapter=folder)
    assert difference(embed(whole, TEXTS), expected) < 1e-5
    decoder = load_tiny("qwen2_vl", "nf4", adapter=folder, decoder_only=True)
    assert difference(embed(decoder, TEXTS), expected) < 1e-6
    assert embed(whole, items).isfinite().all()


@pytest.mark.parametrize("settings", [SECOND, DORA])
@pytest.mark.parametrize("decoder_only", [False, True])
def test_a_new_adapter_on_a_frozen_one(settings, decoder_only, first, items, load_tiny, tmp_path):
    folder, expected = first
    if decoder_only:
        settings = replace(settings, train=["llm"])
    stacked = load_tiny("qwen2_vl", "nf4", adapter=folder, lora=settings, decoder_only=decoder_only)
    names = [name for name, _ in stacked.trainable_named_parameters()]
    assert names and all(f".01-rank{settings.rank}" in name for name in names)
    assert all(p.dtype == torch.float32 for _, p in stacked.trainable_named_parameters())
    assert difference(embed(stacked, TEXTS), expected) < 1e-6  # its B is zero
    stacked.train()
    batch = stacked.processor.collate([stacked.processor(item) for item in TEXTS])
    if not settings.dropout:
        assert difference(stacked(batch), expected) < 1e-6  # the frozen one drops nothing out

    before = embed(shake(stacked), TEXTS)
    assert difference(before, expected) > 1e-2
    stacked.save_adapters(tmp_path / "both")
    assert [path.name for path in adapter_folders(tmp_path / "both")] == [
        "00-rank8", f"01-rank{settings.rank}",
    ]  # fmt: skip
    again = load_tiny("qwen2_vl", "nf4", adapter=tmp_path / "both", decoder_only=decoder_only)
    assert difference(embed(again, TEXTS), before) < 1e-6
    check_same_weights(folder, tmp_path / "both")
    third = load_tiny("qwen2_vl", "nf4", adapter=tmp_path / "both", lora=FIRST)
    assert {name.split(".")[-2] for name, _ in third.trainable_named_parameters()} == {"02-rank8"}


@pytest.mark.parametrize(
    "settings", [SECOND, replace(DORA, dropout=0.1), replace(SECOND, use_rslora=True)]
)
def test_merged_is_what_stacked_is(settings, items, load_tiny, tmp_path):
    first = shake(load_tiny("qwen2_vl", lora=replace(FIRST, use_dora=True)))
    expected = embed(first, items)
    first.save_adapters(tmp_path / "first")
    stacked = load_tiny("qwen2_vl", adapter=tmp_path / "first")
    merged = load_tiny("qwen2_vl", adapter=tmp_path / "first", merge_adapter=True, lora=settings)
    assert "adapters: 00-rank8 (merged), 01-rank2" in merged.describe()
    assert not any("00-rank8" in name for name, _ in merged.named_parameters())
    assert difference(embed(stacked, items), expected) < 1e-6
    assert difference(embed(merged, items), expected) < 1e-5

    merged.save_adapters(tmp_path / "untrained")
    after = embed(shake(merged), items)
    assert difference(after, expected) > 1e-2
    merged.save_adapters(tmp_path / "both")
    again = load_tiny("qwen2_vl", adapter=tmp_path / "both")
    assert difference(embed(again, items), after) < 1e-5
    description = json.loads((tmp_path / "both" / "encoder.json").read_text())
    assert description["merged"] == int(settings.use_dora)
    check_same_weights(tmp_path / "first", tmp_path / "both")
    if not settings.use_dora:  # the sum is the sum: a quantised base takes them too
        quantised = load_tiny("qwen2_vl", "nf4", adapter=tmp_path / "both")
        assert embed(quantised, items).isfinite().all()
        return
    with pytest.raises(ConfigError, match="both cannot be merged into quantised weights"):
        load_tiny("qwen2_vl", "nf4", adapter=tmp_path / "both")


def test_dora_with_dropout_on_a_stack_is_refused(first, load_tiny):
    with pytest.raises(ConfigError, match=r"lora.dropout: got 0.1 .*model.merge_adapter=true"):
        load_tiny("qwen2_vl", adapter=first[0], lora=replace(DORA, dropout=0.1))
    with pytest.raises(ConfigError, match="model.quantization: got 'nf4', expected none to merge"):
        check_trainable(ModelConfig(name="any", merge_adapter=True))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_an_evaluation_may_merge_into_what_quantised_weights_stand_for(
    quantization, items, load_tiny, tmp_path
):
    trained = shake(load_tiny("qwen2_vl", quantization, lora=FIRST))
    expected = embed(trained, items)
    trained.save_adapters(tmp_path / "first")
    merged = load_tiny("qwen2_vl", quantization, adapter=tmp_path / "first", merge_adapter=True)
    assert not any(is_quantised(m) or "lora" in name for name, m in merged.named_modules())
    apart = 1e-5 if quantization == "nf4" else 0.02  # int8 rounds what goes into a layer, too
    assert difference(embed(merged, items), expected) < apart


def test_a_step_of_training_moves_the_new_adapter_only(first, load_tiny):
    folder, _ = first
    encoder = load_tiny("qwen2_vl", "nf4", adapter=folder, lora=SECOND)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    optimizer = torch.optim.SGD([p for _, p in encoder.trainable_named_parameters()], lr=1.0)
    batch = encoder.processor.collate([encoder.processor(item) for item in TEXTS])
    encoder.train()(batch)[:, 0].sum().backward()
    optimizer.step()
    for name, parameter in encoder.named_parameters():
        if not ("01-rank2" in name and "lora_B" in name and "language_model" in name):
            assert torch.equal(parameter, before[name]), name
    assert any(not torch.equal(p, before[name]) for name, p in encoder.named_parameters())


def test_a_bfloat16_base_keeps_fp32_adapters(first, load_tiny):
    encoder = load_tiny("qwen2_vl", "nf4", "bfloat16", adapter=first[0], lora=SECOND)
    adapters = [p for name, p in encoder.named_parameters() if "lora_" in name]
    assert {p.dtype for p in adapters} == {torch.float32}
    assert (embed(encoder, TEXTS) * first[1]).sum(dim=1).min() > 0.97


def test_it_is_a_peft_adapter(items, load_tiny, tiny_model, tmp_path):
    encoder = shake(load_tiny("llava_onevision", lora=SECOND))
    encoder.save_adapters(tmp_path / "saved")
    folder = tmp_path / "saved" / "00-rank2"
    full = AutoModelForImageTextToText.from_pretrained(tiny_model("llava_onevision"))
    full = PeftModel.from_pretrained(full, folder).eval()
    batch = encoder.processor.collate([encoder.processor(item) for item in items])
    with torch.no_grad():
        hidden = full.get_base_model().model(**batch, use_cache=False).last_hidden_state[:, -1]
    expected = embed(encoder, items)
    assert difference(torch.nn.functional.normalize(hidden, dim=1), expected) < 1e-6
    plain = load_tiny("llava_onevision", adapter=folder)
    assert difference(embed(plain, items), expected) < 1e-6


def test_another_base_is_refused(first, load_tiny):
    with pytest.raises(ConfigError, match=r"was trained on .*qwen2_vl-0 .*, not on .*qwen2_vl-1"):
        load_tiny("qwen2_vl", seed=1, adapter=first[0])
    with pytest.raises(ConfigError, match=r"\(qwen2_vl\), not on .* \(llava\)"):
        load_tiny("llava", adapter=first[0])


def test_another_prompt_or_input_is_a_warning(first, load_tiny, tmp_path):
    pictured = InputConfig(resolution="56x56")
    load_tiny("qwen2_vl", lora=SECOND).save_adapters(tmp_path / "saved")
    for folder, inputs, words in (
        (first[0], InputConfig(max_text_tokens=9), "inputs.max_text_tokens=512, this run has 9"),
        (first[0], InputConfig(prompt="e5v"), "inputs.prompt='unime', this run has 'e5v'"),
        (tmp_path / "saved", pictured, "inputs.resolution='native', this run has '56x56'"),
    ):
        with pytest.warns(UserWarning, match=words):
            load_tiny("qwen2_vl", adapter=folder, inputs=inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tiny("qwen2_vl", "none", "bfloat16", adapter=first[0])  # precision is no difference
        load_tiny("qwen2_vl", adapter=first[0], inputs=pictured)  # it saw no image


def test_saving_replaces_the_whole_folder(first, load_tiny, tmp_path):
    encoder = load_tiny("qwen2_vl", lora=SECOND)
    encoder.save_adapters(tmp_path / "saved")
    (tmp_path / "saved" / "stale").touch()
    encoder.save_adapters(tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]
    names = sorted(path.name for path in (tmp_path / "saved").rglob("*"))
    assert names == ["00-rank2", "adapter_config.json", "adapter_model.safetensors", "encoder.json"]
    with pytest.raises(ValueError, match="no adapter to save"):
        load_tiny("qwen2_vl").save_adapters(tmp_path / "none")


def test_inputs_are_those_of_training(first, load_tiny, tmp_path):
    asked = InputConfig(prompt="e5v", resolution="16x16", num_frames=4, jpeg_draft=True)
    load_tiny("qwen2_vl", lora=LoraSettings(), inputs=asked).save_adapters(tmp_path / "final")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        inputs = load_tiny("qwen2_vl", adapter=tmp_path / "final").processor.inputs
    assert inputs == replace(asked, max_text_tokens=512, max_tiles=0)
    with pytest.warns(UserWarning, match="trained with inputs.prompt='e5v', this run has 'unime'"):
        other = InputConfig(prompt="unime")
        inputs = load_tiny("qwen2_vl", adapter=tmp_path / "final", inputs=other).processor.inputs
    assert (inputs.prompt, inputs.resolution) == ("unime", "16x16")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds neither encoder.json nor adapter_config.json"),
        ("{", "encoder.json: cannot read it"),
        ("[]", "encoder.json: expected a JSON object"),
        ("{}", "encoder.json lacks base, inputs, adapters or merged"),
        (
            '{"version": 1, "base": 0, "inputs": 0, "adapters": 0, "merged": 0}',
            "encoder.json has version 1, expected 2",
        ),
        (
            '{"version": 2, "base": 0, "inputs": {}, "adapters": [], "merged": 0}',
            "encoder.json has base 0, expected a mapping",
        ),
    ],
)
def test_bad_adapter_folders(content, message, load_tiny, tmp_path):
    if content is not None:
        (tmp_path / "encoder.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_tiny("qwen2_vl", adapter=tmp_path)


def test_damaged_weights(load_tiny, tmp_path):
    load_tiny("qwen2_vl", lora=FIRST).save_adapters(tmp_path / "saved")
    folder = tmp_path / "saved" / "00-rank8"
    weights = load_file(folder / WEIGHTS)
    weights.pop(next(iter(weights)))
    save_file(weights, folder / WEIGHTS)
    message = "lacks 1 tensors of this base and has 0 that it does not know, first .*lora_"
    with pytest.raises(ConfigError, match=message):
        load_tiny("qwen2_vl", adapter=tmp_path / "saved")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ConfigError, match="adapter_model.safetensors: "):
        load_tiny("qwen2_vl", adapter=tmp_path / "saved")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = "elsewhere"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ConfigError, match="00-rank8 does not fit the base: .*elsewhere"):
        load_tiny("qwen2_vl", adapter=folder)


def test_the_trained_adapter_comes_back(load_tiny, tmp_path):
    """As a run goes on: bit for bit into the same tensors, the frozen one below untouched."""
    shake(load_tiny("qwen2_vl", lora=FIRST)).save_adapters(tmp_path / "first")
    trained = shake(load_tiny("qwen2_vl", lora=SECOND, adapter=tmp_path / "first"))
    trained.save_adapters(tmp_path / "both")
    again = load_tiny("qwen2_vl", lora=SECOND, adapter=tmp_path / "first")
    before = dict(again.trainable_named_parameters())
    again.load_trained(tmp_path / "both")
    expected = dict(trained.trainable_named_parameters())
    for name, parameter in again.trainable_named_parameters():
        assert parameter is before[name] and torch.equal(parameter, expected[name])
    with pytest.raises(ConfigError, match=r"holds the adapters \['00-rank.*, the model has"):
        load_tiny("qwen2_vl", lora=FIRST).load_trained(tmp_path / "both")
    (tmp_path / "both" / again.adapters.names[-1] / "adapter_model.safetensors").write_bytes(b"12")
    with pytest.raises(ConfigError, match="adapter_model.safetensors"):
        again.load_trained(tmp_path / "both")
