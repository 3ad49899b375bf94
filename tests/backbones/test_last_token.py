"""The last layer computes the last token alone, and the embedding and its gradient are the same.

python -m pytest tests/backbones/test_last_token.py
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.exported_runs import shake
from tests.support.tiny.models import WITH_PHI3_V
from unime.backbones.last_token import LastTokenAlone
from unime.config import LoraSettings
from unime.inputs.padding import Sample
from unime.models.encoder import Encoder


def measured(encoder: Encoder, parts: list[Sample], alone: bool) -> tuple[list[int], torch.Tensor]:
    """Columns that the last MLP sees of each part, and the embeddings."""
    layer, columns = encoder.base.get_decoder().layers[-1], []
    with layer.mlp.register_forward_hook(lambda _, given, made: columns.append(made.shape[1])):
        rows = encoder(parts) if alone else torch.cat([encoder(part) for part in parts])
    return columns, rows


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_the_same_for_less(family, checkpointing, items, load_tiny):
    if checkpointing and family != "qwen2_vl":
        return
    lora = LoraSettings(rank=2, dropout=0.0)
    encoder = load_tiny(family, lora=lora, gradient_checkpointing=checkpointing)
    shake(encoder).train()
    process = encoder.processor
    parts = [part for _, part in process.parts([process(item) for item in items])]
    found = []
    for alone in (True, False):
        encoder.zero_grad()
        columns, rows = measured(encoder, parts, alone)
        assert columns == [1 if alone else part["input_ids"].shape[1] for part in parts]
        (rows * torch.linspace(-1, 1, rows.shape[1])).sum().backward()
        gradient = [p.grad.flatten() for _, p in encoder.trainable_named_parameters()]
        found.append((rows.detach(), torch.cat(gradient)))
    (rows, gradient), (whole, of_whole) = found
    assert (rows - whole).abs().max() < 1e-6
    assert (gradient - of_whole).norm() < 1e-5 * of_whole.norm()
    assert encoder._last_token.active is False


def test_a_decoder_that_is_made_otherwise_is_left_as_it_is():
    layer = nn.Module()
    layer.self_attn, layer.mlp = nn.Module(), nn.Linear(2, 2)
    decoder = nn.Module()
    decoder.layers = nn.ModuleList([layer])
    for part in (decoder, nn.Module(), None):
        LastTokenAlone(part)
    assert not layer.mlp._forward_pre_hooks
