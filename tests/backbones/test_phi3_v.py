"""Phi-3.5-V's own code under transformers 5, on a tiny checkpoint that brings code like it.

python -m pytest -m backbones tests/backbones/test_phi3_v.py
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from tests.support.embedding import difference, embed, exact_model
from tests.support.exported_runs import shake
from tests.support.material import metrics, stage2, write_material
from unime.backbones.families import BACKBONES
from unime.backbones.phi3_v import SUPPLIED, tiles_of_crops
from unime.config import InputConfig, LoraSettings, ModelConfig
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.planning.architecture import read_architecture

pytestmark = pytest.mark.backbones


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("phi3_v")


@pytest.fixture(scope="module")
def load(load_tiny: Callable[..., Encoder]) -> Callable[..., Encoder]:
    return partial(load_tiny, "phi3_v")


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
    model = exact_model(folder, trust_remote_code=True)
    with monkeypatch.context() as patch:
        bare = replace(BACKBONES["phi3_v"], importing=nullcontext)
        patch.setitem(BACKBONES, "phi3_v", bare)
        with pytest.raises(ConfigError, match="cannot be loaded: .*(import|No module)"):
            Encoder.load(model)
    assert difference(embed(Encoder.load(model), items), embed(load(), items)) < 1e-6
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


def test_what_is_done_for_it_is_needed(checkpoint, load, items, monkeypatch):
    """Whatever stops failing here has become superfluous in unime/backbones/phi3_v.py."""
    bare = replace(BACKBONES["phi3_v"], adapt=None)
    monkeypatch.setitem(BACKBONES, "phi3_v", bare)
    monkeypatch.setattr(Encoder, "_try_out", lambda _: None)
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


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_its_adapters_come_back(quantization, items, load, tmp_path):
    lora = LoraSettings(rank=2, dropout=0.0, train=["llm", "projector", "vision"])
    encoder = shake(load(quantization, "bfloat16", lora=lora))
    encoder.save_adapters(tmp_path / "adapters")
    again = load(quantization, "bfloat16", adapter=tmp_path / "adapters")
    assert difference(embed(again, items), embed(encoder, items)) == 0


def test_its_memory_is_not_guessed(checkpoint):
    with pytest.raises(ConfigError, match="cannot be planned: it brings its own code"):
        read_architecture(ModelConfig(str(checkpoint), trust_remote_code=True), LoraSettings())


def test_cached_gradients_are_those_of_one_step(checkpoint, tmp_path):
    write_material(tmp_path, checkpoint)
    settings = ("model.trust_remote_code=true", "optim.steps=2", "run.num_workers=0")
    whole = stage2(tmp_path, "whole", "optim.chunk_size=99", "lora.dropout=0", *settings)
    cached = stage2(tmp_path, "cached", "lora.dropout=0", *settings)
    for ours, theirs in zip(metrics(cached), metrics(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
