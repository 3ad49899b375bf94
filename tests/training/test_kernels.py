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
from unime.losses import distillation_loss
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
    """Of the cached step, with dropout, which has to draw as without."""
    found = []
    for prepare in (lambda _: 0, compile_layers):
        found.append(gradient(prepare, quantization, checkpointing))
    assert difference(found[0], found[1]) / float(found[0].abs().max()) < 1e-4


def gradient(
    prepare: Callable[[Encoder], int], quantization: Quantization, checkpointing: bool
) -> Tensor:
    torch.manual_seed(0)
    encoder = Encoder.load(
        ModelConfig(
            name=str(ROOT / "assets/base"),
            quantization=quantization,
            precision=Precision.float32,
        ),
        InputConfig(),
        lora=LoraSettings(rank=4, alpha=8, dropout=0.1),
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
    cached_backward(
        Accelerator(cpu=True),
        encoder,
        batch,
        lambda rows, labels: distillation_loss(rows["text"], labels["teacher"], config),
    )
    gradients = [p.grad for _, p in encoder.trainable_named_parameters() if p.grad is not None]
    return torch.cat([one.flatten() for one in gradients])
