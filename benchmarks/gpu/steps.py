"""How a step is taken: a case, the model and the pairs for it, and what the GPU held meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.gpu.models import SIDE, Material, planned_encoder, step_config
from unime.config import HardNegativeLossConfig, Stage2PlanConfig
from unime.losses import LossOutput, instruction_loss
from unime.models.encoder import Encoder
from unime.planning.gpus import GPUS
from unime.training.chunks import Batch, ChunkLimits
from unime.training.grad_cache import cached_backward
from unime.training.graph_memory import GraphMemory
from unime.training.kernels.choices import compile_layers

TOKENS = 32  # of a question and of a caption
GIB = 2**30
DRIVERS_NAMES = {  # what the driver calls the GPUs of unime/planning/gpus.py
    "NVIDIA A100-SXM4-40GB": "a100-40g",
    "NVIDIA A100-PCIE-40GB": "a100-40g",
    "NVIDIA A100-SXM4-80GB": "a100-80g",
    "NVIDIA A100 80GB PCIe": "a100-80g",
    "NVIDIA H100 80GB HBM3": "h100-80g",
    "NVIDIA H200": "h200",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 3090": "rtx-3090",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
}
INFO_NCE = HardNegativeLossConfig(0.05, num_hard_negatives=None, false_negative_margin=None)
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """How a step is taken."""

    batch: int  # pairs
    chunk: int  # items
    checkpointing: bool = False
    quantization: str = "none"
    precision: str = "bfloat16"
    attention: str = "sdpa"
    dropout: float = 0.05
    tf32: bool = False  # of products of adapters, which are float32
    autocast: bool = False  # the products of adapters in bfloat16
    graph_memory: float | str = 0  # GiB of kept graphs, or auto
    compile: bool = False  # the repeated layers
    train: tuple[str, ...] = ("llm", "projector", "vision")  # without the last two: features once

    def config(
        self, material: Material, small: bool, gpu: Sequence[str] = ("gpu=h100-80g",)
    ) -> Stage2PlanConfig:
        return step_config(
            material.model,
            f"model.quantization={self.quantization}",
            f"model.precision={self.precision}",
            f"model.attention={self.attention}",
            f"lora.dropout={self.dropout}",
            f"inputs.resolution={'native' if small else f'{SIDE}x{SIDE}'}",
            f"optim.batch_size_per_device={self.batch}",
            f"optim.chunk_size={self.chunk}",
            f"optim.gradient_checkpointing={self.checkpointing}",
            f"optim.graph_memory={self.graph_memory}",
            f"lora.train=[{', '.join(self.train)}]",
            *gpu,
            f"plan.text_tokens={TOKENS}",
            "plan.image_side=96",
        )


@dataclass
class Setting:
    """What every section works with."""

    material: Material
    accelerator: Accelerator
    small: bool

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def load(self, case: Case, trains: bool = True, dequantised: bool = False) -> Encoder:
        config = case.config(self.material, self.small)
        torch.manual_seed(0)  # equal fresh adapters
        options = {} if trains else {"lora": None}
        encoder = planned_encoder(config, device=self.device, dequantised=dequantised, **options)
        if case.compile:
            compile_layers(encoder)
        return encoder.train(trains)

    def batch(self, encoder: Encoder, case: Case) -> Batch:
        limits = ChunkLimits.of(case.config(self.material, self.small).optim)
        apart = encoder.vision.reuses_features
        return self.material.batch(encoder.processor, limits, case.batch, apart)

    def step(self, encoder: Encoder, batch: Batch, graphs: GraphMemory | None = None) -> LossOutput:
        return cached_backward(self.accelerator, encoder, batch, info_nce, graphs=graphs)


def info_nce(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
    """Against all other targets: nothing is chosen, so rounding cannot choose another."""
    output = instruction_loss(embeddings, labels, INFO_NCE)
    both = torch.cat(list(embeddings.values())).detach()
    return LossOutput(output.loss, {"mean_similarity": (both @ both.T).mean()})


@contextmanager
def arithmetic(setting: Setting, case: Case) -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = case.tf32
    kind = setting.device.type
    try:
        with torch.autocast(kind, torch.bfloat16) if case.autocast else nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def planned_gpu() -> tuple[list[str], float | None]:
    """What a plan has to be told of this machine's GPU, and its peak in FLOP/s: None where that is
    unknown. Without a GPU an H100 is planned for."""
    if not torch.cuda.is_available():
        return ["gpu=h100-80g"], None
    name = DRIVERS_NAMES.get(torch.cuda.get_device_name())
    if name is not None:
        return [f"gpu={name}"], GPUS[name].tflops * 1e12
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    # the seconds that follow from 1 TFLOP/s are not used
    return ["gpu=custom", "plan.gpu_tflops=1", f"plan.gpu_memory_gib={memory}"], None


def adamw(encoder: Encoder) -> torch.optim.Optimizer:
    parameters = [parameter for _, parameter in encoder.trainable_named_parameters()]
    return torch.optim.AdamW(parameters, lr=1e-5, fused=True)


def synchronise(setting: Setting) -> None:
    if setting.device.type == "cuda":
        torch.cuda.synchronize()


def floats(output: LossOutput) -> Result:
    return {name: value.item() for name, value in output.stats.items()}


def free() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(setting: Setting) -> None:
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def allocated(setting: Setting) -> float | None:
    """GiB of tensors on the GPU; None: there is none."""
    return torch.cuda.memory_allocated() / GIB if setting.device.type == "cuda" else None


def peak(setting: Setting) -> float | None:
    """The most of them since `reset_peak`."""
    return torch.cuda.max_memory_allocated() / GIB if setting.device.type == "cuda" else None
