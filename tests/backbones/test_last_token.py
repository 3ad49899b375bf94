"""The last layer computes the last token alone, and the embedding is the same.

python -m pytest tests/backbones/test_last_token.py
"""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny.models import WITH_PHI3_V
from unime.backbones.last_token import last_token_alone
from unime.config import LoraSettings


@pytest.mark.parametrize("family", WITH_PHI3_V)
@torch.no_grad()
def test_the_embedding_is_the_same_for_less(family, items, load_tiny):
    encoder = load_tiny(family, lora=LoraSettings()).eval()
    parts = encoder.processor.parts([encoder.processor(item) for item in items])
    whole = encoder([part for _, part in parts])
    layer = encoder.base.get_decoder().layers[-1]
    lengths = []
    with layer.mlp.register_forward_hook(lambda _, given, made: lengths.append(made.shape[1])):
        alone = encoder.embed(parts)
    assert lengths == [1] * len(parts)
    order = torch.tensor([place for places, _ in parts for place in places])
    assert (alone[order] - whole).abs().max() < 1e-6
    again = encoder([part for _, part in parts])
    assert torch.equal(again, whole)


def test_a_family_that_is_not_listed_is_left_as_it_is(load_tiny):
    decoder = load_tiny("qwen2_vl").base.get_decoder()
    with last_token_alone(decoder, "unknown"):
        assert not decoder.layers[-1].mlp._forward_pre_hooks
    with last_token_alone(decoder, "qwen2_vl"):
        assert decoder.layers[-1].mlp._forward_pre_hooks
    assert not decoder.layers[-1].mlp._forward_pre_hooks
