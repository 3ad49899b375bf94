"""Compiled layers, products in TF32 and the optimizer, as ``optim`` asks for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from unime.config import OptimConfig, Optimizer, Quantization
from unime.config.training import Stage1Config, Stage2Config
from unime.errors import ConfigError, require
from unime.models.encoder import Encoder

COMPILERS = ("g++", "clang++")
VARIANTS = 128  # of a compiled layer, by what it is called with; torch's own limit is 8
SHOWN = ("single", "ddp")  # engines on which these were seen to change nothing else


def check_kernels(engine: str, config: Stage1Config | Stage2Config) -> None:
    """Refuse what cannot work here, or was not shown to; needs no weights.

    Raises:
        ConfigError: with what to use instead.
    """
    optim, quantization = config.optim, config.model.quantization
    chosen = {
        "optim.compile": (optim.compile, False),
        "optim.optimizer": (optim.optimizer is Optimizer.adamw_8bit, Optimizer.adamw.value),
    }
    for key, (is_chosen, instead) in chosen.items():
        if is_chosen and engine not in SHOWN:
            raise ConfigError(f"{key}: expected {instead} with {engine}, where it was not tried")
    if optim.compile:
        tried = quantization is not Quantization.int8
        expected = "nf4 or none with optim.compile, which was not tried on 8 bits"
        require(tried, "model.quantization", quantization.value, expected)
        named = (os.environ.get("CXX", ""), *COMPILERS)
        expected = "false, or a C++ compiler, by which torch compiles: " + " or ".join(COMPILERS)
        require(any(map(shutil.which, named)), "optim.compile", True, expected)
        limit, on_cpu = optim.graph_memory, not torch.cuda.is_available()
        expected = "auto or 0 with optim.compile on a CPU, where a compiled graph is not measured"
        require(not on_cpu or limit in ("auto", 0), "optim.graph_memory", limit, expected)
    has_gpu = torch.cuda.is_available()
    require(has_gpu or not optim.tf32, "optim.tf32", True, "false where there is no NVIDIA GPU")


def choose_precision(optim: OptimConfig) -> None:
    """Of products of float32, in this process."""
    torch.set_float32_matmul_precision("high" if optim.tf32 else "highest")


def compile_layers(encoder: Encoder) -> int:
    """Let torch compile the repeated layers, once for all of them and for any shape; names of
    parameters stay, and checkpointing wraps what is compiled.

    Both passes of the cached step draw the same dropout masks, though they are compiled apart; they
    are others than without, so a layer that torch would leave as it is, having compiled it often
    enough, is an error.

    Returns:
        How many layers there are.
    """
    units = [
        module
        for module in encoder.model.modules()
        if type(module).__name__ in encoder._no_split_modules
    ]
    settings: Any = torch._dynamo.config
    settings.recompile_limit = VARIANTS
    settings.fail_on_recompile_limit_hit = True
    for module in units:
        module.compile(dynamic=True, options={"fallback_random": True})
    return len(units)


def make_optimizer(parameters: Iterable[nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW, its moments in float32 or, by bitsandbytes, in 8 bits (arXiv 2110.02861)."""
    common: dict[str, Any] = {
        "lr": optim.learning_rate,
        "betas": (optim.beta1, optim.beta2),
        "eps": optim.epsilon,
        "weight_decay": optim.weight_decay,
    }
    if optim.optimizer is Optimizer.adamw:
        return torch.optim.AdamW(parameters, fused=True, **common)
    from bitsandbytes.optim import AdamW8bit  # slow to import

    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **common)
    return optimizer
