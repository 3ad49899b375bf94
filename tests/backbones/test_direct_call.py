"""A processor whose parts are called gives what its own call gives, bit by bit.

python -m pytest tests/backbones/test_direct_call.py
"""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from tests.support.tiny.models import FAMILIES
from unime.backbones.direct_call import COMPARED, DirectCall
from unime.backbones.families import BACKBONES
from unime.config import InputConfig
from unime.inputs.items import Item
from unime.models.item_processor import ItemProcessor

OWN_WAY = {"idefics3", "internvl", "gemma3", "paligemma", "mllama"}  # have a call of their own


@pytest.fixture
def processor(tiny_model):
    def build(family, **inputs):
        hf_processor = AutoProcessor.from_pretrained(tiny_model(family))
        return ItemProcessor(hf_processor, BACKBONES[family], InputConfig(**inputs))

    return build


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sample_is_that_of_the_processor(family, items, tmp_path, processor):
    for number, size in enumerate([(64, 64), (90, 41), (330, 200)]):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{number}.png")
        items = [*items, Item(f"a noise {number}", images=(str(tmp_path / f"{number}.png"),))]
    direct, own = processor(family), processor(family)
    own._call.works = False
    for item in [*items, *items]:  # the first ones of each kind are compared by themselves
        found, expected = direct(item), own(item)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), (item, key)
    assert direct._call.works == (family not in OWN_WAY)


def test_the_first_items_are_compared_and_one_that_differs_ends_it(processor, monkeypatch):
    own = processor("qwen2_vl").hf_processor
    call = DirectCall(own)
    monkeypatch.setattr(call, "_tokenised", lambda *_: {"input_ids": torch.tensor([[1]])})
    found = call("a text", None, True)
    assert torch.equal(found["input_ids"], own(text=["a text"], return_tensors="pt")["input_ids"])
    assert not call.works


def test_later_items_do_not_reach_the_processors_own_call(processor, monkeypatch):
    prepare = processor("qwen2_vl")
    for number in range(COMPARED):
        prepare(Item(f"text {number}"))
    monkeypatch.setattr(prepare._call, "_own", lambda *_: pytest.fail("it was called"))
    assert len(prepare(Item("another text"))["input_ids"])


def test_what_the_processor_refuses_is_said_by_it(processor):
    call = processor("qwen2_vl")._call
    with pytest.raises(ValueError, match="no images were passed"):
        call("<|image_pad|>", None, True)
    assert call.works
