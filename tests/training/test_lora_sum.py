"""LoRA added in one operation is LoRA as peft adds it: pytest tests/training/test_lora_sum.py"""

from __future__ import annotations

import pytest
import torch

from tests.support.exported_runs import shake
from unime.config import LoraSettings, Quantization
from unime.training.kernels.lora_sum import LoraSum, add_in_one


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_vectors_and_gradients_are_the_same(
    quantization, precision, dropout, items, load_tiny
) -> None:
    """In bfloat16, where the adapter stays float32, within its rounding."""
    settings = {"quantization": Quantization[quantization], "precision": precision}
    lora = LoraSettings(rank=4, alpha=12, dropout=dropout, train=["llm", "vision"])
    encoder = shake(load_tiny("qwen2_vl", lora=lora, **settings)).train()
    process = encoder.processor
    parts = [part for _, part in process.parts([process(item) for item in items])]
    found = []
    for changes in (False, True):
        if changes:
            assert add_in_one(encoder) > 10 and add_in_one(encoder) == 0
        torch.manual_seed(1)
        encoder.zero_grad()
        rows = encoder(parts)
        rows[:, 0].sum().backward()
        gradient = [p.grad.flatten() for _, p in encoder.trainable_named_parameters()]
        found.append((rows.detach(), torch.cat(gradient)))
    (rows, gradient), (ours, our_gradient) = found
    limit = 1e-5 if precision == "float32" else 0.1
    assert (rows - ours).abs().max() < limit
    assert (gradient - our_gradient).norm() < limit * gradient.norm()


def test_what_is_more_than_lora_is_left_alone(load_tiny) -> None:
    dora = load_tiny("qwen2_vl", lora=LoraSettings(rank=4, use_dora=True))
    assert add_in_one(dora) == 0
    evaluated = load_tiny("qwen2_vl")
    assert add_in_one(evaluated) == 0
    kinds = {type(v) for m in dora.modules() for v in getattr(m, "lora_variant", {}).values()}
    assert kinds and LoraSum not in kinds
