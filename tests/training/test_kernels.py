"""Compiled layers, TF32 and 8-bit moments change nothing but speed and memory, or are refused.

pytest tests/training/test_kernels.py; -m engines: compiled layers, minutes
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.support.embedding import difference, unit
from tests.support.paths import ROOT
from unime.config import (
    DistillationLossConfig,
    InputConfig,
    LoraSettings,
    ModelConfig,
    OptimConfig,
    Optimizer,
    Precision,
    Quantization,
    Stage2Config,
    build_config,
)
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.losses import LossFunction, LossOutput, distillation_loss
from unime.models.encoder import Encoder
from unime.training.checkpoints.sharding import load_optimizer_tensors, optimizer_tensors
from unime.training.chunks import Batch
from unime.training.grad_cache import cached_backward
from unime.training.kernels.choices import check_kernels, compile_layers, make_optimizer

STAGE2 = ROOT / "configs/demo/stage2.yaml"


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    """One that is held in 8 bits, and one that is too small to be."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"large": (128, 64), "small": (4, 8)}
    return {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}


def optimizer_of(of: dict[str, nn.Parameter], kind: Optimizer) -> torch.optim.Optimizer:
    optim = OptimConfig(1, None, 2, 2, 1e-2, optimizer=kind)
    return make_optimizer(of.values(), optim)


def take_steps(of: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(of.values(), parameters(step + 1).values(), strict=True):
            parameter.grad = gradient.detach()
        optimizer.step()


@pytest.mark.parametrize("kind", list(Optimizer))
def test_moments_go_on_bit_for_bit(kind: Optimizer, tmp_path: Path) -> None:
    whole, first = parameters(), parameters()
    take_steps(whole, optimizer_of(whole, kind), range(6))
    optimizer = optimizer_of(first, kind)
    take_steps(first, optimizer, range(3))
    save_file(optimizer_tensors(first, optimizer), tmp_path / "optimizer.safetensors")
    rest = {name: nn.Parameter(value.detach().clone()) for name, value in first.items()}
    again = optimizer_of(rest, kind)
    load_optimizer_tensors(load_file(tmp_path / "optimizer.safetensors"), rest, again)
    take_steps(rest, again, range(3, 6))
    assert all(torch.equal(rest[name], whole[name]) for name in whole)


def test_8_bits_step_about_as_32() -> None:
    steps = []
    for kind in Optimizer:
        of = parameters()
        before = of["large"].detach().clone()
        take_steps(of, optimizer_of(of, kind), range(5))
        steps.append(of["large"].detach() - before)
    assert float((steps[0] - steps[1]).norm() / steps[0].norm()) < 0.05
    assert not torch.equal(*steps)


def spoilt(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == "lacks":
        return {key: value for key, value in tensors.items() if key != "large/absmax2"}
    if how == "shape":
        return tensors | {"large/state2": tensors["large/state2"][:5]}
    return {f"other/{key.partition('/')[2]}": value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("how", "message"),
    [("lacks", "expected .*absmax2"), ("shape", "large/state2"), ("name", "'other' of the opt")],
)
def test_moments_of_another_are_refused(how: str, message: str) -> None:
    of = parameters()
    optimizer = optimizer_of(of, Optimizer.adamw_8bit)
    take_steps(of, optimizer, range(1))
    tensors = optimizer_tensors(of, optimizer)
    with pytest.raises(DataError, match=message):
        load_optimizer_tensors(spoilt(tensors, how), of, optimizer)
    plain = optimizer_of(of, Optimizer.adamw)
    with pytest.raises(DataError, match="of the optimizer"):
        load_optimizer_tensors(tensors, of, plain)


@pytest.mark.parametrize(
    ("engine", "words", "message"),
    [
        ("zero2", ["optim.compile=true"], "optim.compile: expected False with zero2"),
        ("fsdp2", ["optim.optimizer=adamw_8bit"], "optim.optimizer: expected adamw with fsdp2"),
        (
            "ddp",
            ["optim.compile=true", "model.quantization=int8"],
            "model.quantization: got 'int8', expected nf4 or none",
        ),
        ("single", ["optim.tf32=true"], "optim.tf32: got True, expected false"),
    ],
)
def test_what_cannot_work_is_refused(
    engine: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = build_config(Stage2Config, STAGE2, words)
    with pytest.raises(ConfigError, match=message):
        check_kernels(engine, config)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(Stage2Config, STAGE2, ["optim.compile=true"])
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"a C\+\+ compiler"):
        check_kernels("single", config)


@pytest.mark.engines
@pytest.mark.parametrize(
    ("quantization", "checkpointing"), [(Quantization.none, False), (Quantization.nf4, True)]
)
def test_compiled_layers_have_the_same_gradient(
    quantization: Quantization, checkpointing: bool
) -> None:
    found = [
        gradient(prepare, quantization, checkpointing, 0.0)
        for prepare in (lambda _: 0, compile_layers)
    ]
    assert difference(found[0], found[1]) / float(found[0].abs().max()) < 1e-4


@pytest.mark.engines
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_draw_the_same_masks_in_both_passes(checkpointing: bool) -> None:
    """Of the cached step, beside a step that keeps all graphs."""
    cached, plain = (
        gradient(compile_layers, Quantization.none, checkpointing, 0.5, step)
        for step in (cached_backward, in_one_graph)
    )
    assert difference(cached, plain) / float(plain.abs().max()) < 1e-4
    other = gradient(compile_layers, Quantization.none, checkpointing, 0.0)
    assert difference(cached, other) / float(plain.abs().max()) > 1e-2  # masks are drawn


def in_one_graph(_: Accelerator, model: Encoder, batch: Batch, loss_fn: LossFunction) -> LossOutput:
    embeddings = torch.cat([model(chunk) for chunk in batch.chunks])
    output = loss_fn(batch.by_group(embeddings), batch.labels)
    output.loss.backward()
    return output


def gradient(
    prepare: Callable[[Encoder], int],
    quantization: Quantization,
    checkpointing: bool,
    dropout: float,
    step: Callable[..., LossOutput] = cached_backward,
) -> Tensor:
    torch.manual_seed(0)
    encoder = Encoder.load(
        ModelConfig(
            name=str(ROOT / "assets/base"),
            quantization=quantization,
            precision=Precision.float32,
        ),
        InputConfig(),
        lora=LoraSettings(rank=4, alpha=8, dropout=dropout),
        decoder_only=True,
        gradient_checkpointing=checkpointing,
    ).train()
    for name, parameter in encoder.trainable_named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    prepare(encoder)
    samples = [encoder.processor(Item("a word " * (1 + 3 * n))) for n in range(6)]
    parts = [encoder.processor.parts(samples[n : n + 3])[0][1] for n in (0, 3)]
    batch = Batch([[part] for part in parts], {"text": 6}, {"teacher": unit(6, 8).float()}, [])
    config = DistillationLossConfig()
    torch.manual_seed(1)
    step(
        Accelerator(cpu=True),
        encoder,
        batch,
        lambda rows, labels: distillation_loss(rows["text"], labels["teacher"], config),
    )
    gradients = [p.grad for _, p in encoder.trainable_named_parameters() if p.grad is not None]
    return torch.cat([one.flatten() for one in gradients])
