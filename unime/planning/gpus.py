"""GPUs that a run can be planned for: what each computes and holds, by the makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from unime.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """One GPU. `tflops` is the dense peak (without structured sparsity) of bf16 tensor cores that
    add up in fp32, the way training does; `memory_gib` is what the data sheet calls GB, or what
    the driver reported where one was seen."""

    tflops: float
    memory_gib: float


GPUS = {
    "a100-40g": Gpu(312, 40),  # NVIDIA A100 data sheet, 2022 (SXM; PCIe has the same peak)
    "a100-80g": Gpu(312, 80),
    # NVIDIA H100 data sheet, 2023 (SXM; its 1979 is with sparsity); 81559 MiB by nvidia-smi
    "h100-80g": Gpu(989, 79.6),
    "h200": Gpu(989, 141),  # NVIDIA H200 data sheet, 2024 (SXM)
    "l40s": Gpu(362, 48),  # NVIDIA L40S data sheet, 2023 (its 733 is with sparsity)
    "rtx-3090": Gpu(71, 24),  # NVIDIA Ampere GA102 whitepaper, table 9: bf16 with fp32 accumulate
    "rtx-4090": Gpu(165.2, 24),  # NVIDIA Ada GPU architecture whitepaper, appendix A
}


def gpu_named(name: str, tflops: float | None, memory_gib: float | None) -> Gpu:
    """The GPU of that name, or with ``custom`` one of the given numbers.

    Raises:
        ConfigError: an unknown name, or a custom GPU without its two numbers.
    """
    if name == "custom":
        if tflops is None or memory_gib is None:
            raise ConfigError("gpu: custom needs plan.gpu_tflops and plan.gpu_memory_gib")
        return Gpu(tflops, memory_gib)
    if name not in GPUS:
        raise ConfigError(f"gpu: got {name!r}, expected one of {', '.join(GPUS)}, or custom")
    return GPUS[name]
