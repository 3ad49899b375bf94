"""Texts packed in a row are embedded, and trained on, as if each stood alone; or they are refused.

pytest tests/backbones/test_packing.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.support.exported_runs import shake
from tests.support.material import EXACT, metrics, stage1, stage2, write_material
from tests.support.tiny.models import FAMILIES
from unime.config import DistillationLossConfig, LoraSettings, ModelConfig, Precision, Quantization
from unime.data.datasets import TextRow
from unime.errors import ConfigError
from unime.losses import LossOutput, distillation_loss
from unime.models import loading
from unime.models.encoder import Encoder
from unime.training.chunks import ChunkLimits
from unime.training.collator import TextCollator
from unime.training.grad_cache import cached_backward
from unime.training.graph_memory import GraphMemory

TEXTS = ["a", "two red birds over the sea, and a dog", "what is it?", "a cat", "b", "an old house"]
REFUSED = "paligemma"


def rows() -> list[TextRow]:
    teacher = torch.randn(len(TEXTS), 8, generator=torch.Generator().manual_seed(0))
    return [TextRow(text, teacher[n], str(n)) for n, text in enumerate(TEXTS)]


def loss_fn(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
    return distillation_loss(embeddings["text"], labels["teacher"], DistillationLossConfig())


def step(encoder: Encoder, limits: ChunkLimits, gib: float = 0.0) -> tuple[Tensor, Tensor]:
    """Embeddings in the order of the rows, and the cached step's gradient."""
    encoder.zero_grad()
    batch = TextCollator(encoder.processor, limits)(rows())
    with torch.no_grad():
        embedded = torch.cat([encoder(chunk) for chunk in batch.chunks])
    graphs = GraphMemory(gib)
    cached_backward(Accelerator(cpu=True), encoder, batch, loss_fn, graphs=graphs)
    assert graphs.kept == (len(batch.chunks) if gib else 0)
    read, places = batch.num_tokens
    assert (read == places) == limits.packed
    gradient = [p.grad.flatten() for _, p in encoder.trainable_named_parameters()]  # type: ignore[union-attr]
    return batch.by_group(embedded)["text"], torch.cat(gradient)


@pytest.mark.parametrize("family", FAMILIES)
def test_as_if_each_text_stood_alone(family: str, load_tiny: Callable[..., Encoder]) -> None:
    lora = LoraSettings(rank=2, dropout=0.0)
    options = {"decoder_only": True, "lora": lora, "gradient_checkpointing": family == "qwen3_vl"}
    if family == REFUSED:
        with pytest.raises(ConfigError, match="optim.packing: expected false, which paligemma"):
            load_tiny(family, packing=True, **options)
        return
    encoder = shake(load_tiny(family, packing=True, **options)).train()
    encoder.double()  # in float32 the loss makes 1e-5 of what rounding changes, padding or not
    vectors, gradient = step(encoder, ChunkLimits(2, 2))
    for limits, gib in ((4, 0.0), (4, 1.0), (99, 0.0)):
        found, of_found = step(encoder, ChunkLimits(limits, limits, packed=True), gib)
        assert (found - vectors).abs().max() < 1e-5
        assert (of_found - gradient).norm() < 1e-5 * gradient.norm()


def test_a_row_is_bounded_by_what_is_read() -> None:
    limits = ChunkLimits(3, 3, 20, packed=True)
    assert limits.plan({"text": [9, 2, 8, 4, 3, 2]}) == [
        {"text": [0, 2]},
        {"text": [3, 4, 1]},
        {"text": [5]},
    ]
    assert limits.plan({"text": [9, 8, 3]}) == [{"text": [0, 1, 2]}]
    assert limits.halved() == ChunkLimits(1, 1, 10, packed=True)


def test_stage1_takes_the_same_step(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    write_material(tmp_path, tiny_model("qwen2_vl"))
    settings = (*EXACT, "optim.steps=2", "model.quantization=none")
    (_, plain), (_, packed) = (
        metrics(stage1(tmp_path, f"packing_{on}", *settings, f"optim.packing={on}"))
        for on in ("false", "true")
    )
    for name in ("loss", "grad_norm"):
        assert packed[name] == pytest.approx(plain[name], rel=1e-5)
    assert packed["padding_share"] == 0 < plain["padding_share"]


def test_refused_before_weights_are_loaded(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delattr(loading, "_load_base")
    model = ModelConfig(name=str(tiny_model(REFUSED)), quantization=Quantization.none)
    with pytest.raises(ConfigError, match="optim.packing: expected false"):
        Encoder.load(model, decoder_only=True, packing=True)
    write_material(tmp_path, tmp_path / "no model")
    with pytest.raises(SystemExit):
        stage2(tmp_path, "stage2", "optim.packing=true")
    assert "optim.packing: got True, expected false: stage 2" in capsys.readouterr().err


def test_an_attention_that_sees_other_texts_is_refused(tiny_model: Callable[..., Path]) -> None:
    """One without a mask of its own gets none, and is causal over all of the row."""
    AttentionInterface.register("without_mask", sdpa_attention_forward)
    model = ModelConfig(
        name=str(tiny_model("llava")),
        quantization=Quantization.none,
        precision=Precision.bfloat16,
        attention="without_mask",
    )
    with pytest.raises(ConfigError, match="texts in a row are embedded otherwise than alone"):
        Encoder.load(model, decoder_only=True, packing=True)
