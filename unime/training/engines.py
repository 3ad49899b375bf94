"""Where a run happens: one process, DDP, ZeRO-1, 2, 3 or FSDP2, as accelerate's configuration says.

Everything else drives all of them through ``accelerate`` alone; what is particular to one of them
is in here and in sharding.py. What an engine cannot do is refused before a weight is loaded.
"""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from transformers.integrations import unset_hf_deepspeed_config

from unime.config import OptimConfig, Quantization, Stage1Config, Stage2Config
from unime.config.reading.values import load_yaml
from unime.errors import ConfigError, require_package
from unime.training.kernels.choices import check_kernels

StageConfig = Stage1Config | Stage2Config
ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2")
LOCKSTEP = ("zero1", "zero2", "zero3", "fsdp2")
SHARDS_WEIGHTS = ("zero3", "fsdp2")
KEEPS_GRAPHS = ("single", "ddp", "zero1", "zero2")  # of several chunks at a time
MINES = ("single", "ddp")  # in training
REFUSED = (  # of DeepSpeed's settings, and of those of zero_optimization by how they begin
    "data_types",
    "communication_data_type",
    "zero_quantized",
    "zero_hpz",
    "compute_grad_norm",
)


def make_accelerator(config: StageConfig) -> Accelerator:
    """The accelerator that the launcher's environment asks for, checked against `config`.

    Raises:
        ConfigError: an engine, or a combination of it with the settings, that cannot work.
    """
    on_cpu = not torch.accelerator.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed wonders where the GPU is
    if _asked_for("DEEPSPEED"):
        os.environ.pop("ACCELERATE_USE_CPU", None)  # which would silently mean DDP
        # accelerate's own message is a traceback
        require_package("deepspeed", "deepspeed", "accelerate's distributed_type: DEEPSPEED")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", ".*torch.distributed.*deprecated", FutureWarning)
    asked = _engine_asked_for()
    if asked is not None:
        check_kernels(asked, config)
        check_combination(asked, config)  # DeepSpeed may compile for minutes once it is imported
    warnings.filterwarnings("ignore", ".*broadcast_buffers.*deprecated", FutureWarning)
    accelerator = Accelerator(
        # On CPU torchrun's ranks would not find each other without, DeepSpeed's not with it.
        cpu=on_cpu and not _asked_for("DEEPSPEED"),
        log_with=config.run.trackers or None,
        project_config=ProjectConfiguration(
            config.run.output_dir, logging_dir=os.path.join(config.run.output_dir, "tensorboard")
        ),
        kwargs_handlers=_handlers(config, on_cpu),
    )
    if on_cpu and _asked_for("FSDP") and accelerator.num_processes > 1:
        # accelerate 1.15 takes FSDP for a matter of GPUs; all that follows works on CPU as well.
        PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    _check_processes(accelerator)
    check_combination(engine_of(accelerator), config)
    check_kernels(engine_of(accelerator), config)
    if accelerator.state.deepspeed_plugin is not None:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        _fill_deepspeed(settings, config, accelerator.num_processes)
        unset_hf_deepspeed_config()  # every rank loads the whole model, then ZeRO-3 splits it
    return accelerator


def engine_of(accelerator: Accelerator) -> str:
    """One of :data:`ENGINES`.

    Raises:
        ConfigError: another one.
    """
    kind = accelerator.distributed_type
    if kind is DistributedType.DEEPSPEED:
        name = f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    elif kind is DistributedType.FSDP:
        name = f"fsdp{accelerator.state.fsdp_plugin.fsdp_version}"
    else:
        known = {DistributedType.NO: "single"}
        known |= {DistributedType.MULTI_CPU: "ddp", DistributedType.MULTI_GPU: "ddp"}
        name = known.get(kind, str(kind))
    if name not in ENGINES:
        instead = {"zero0": "MULTI_GPU (DDP)", "fsdp1": "fsdp_version: 2"}.get(name, "DDP")
        raise ConfigError(
            f"accelerate's distributed_type: '{name}' is not supported, use {instead};"
            f" supported are {', '.join(ENGINES)}"
        )
    return name


def in_lockstep(accelerator: Accelerator) -> bool:
    """Whether a forward or backward of a single chunk may exchange something, so that every rank
    has to run as many of them, of the same modules: ZeRO-3 and FSDP2 gather weights in each
    forward, ZeRO-2 reduces gradients in each backward, ZeRO-1 in the last."""
    return engine_of(accelerator) in LOCKSTEP


def check_combination(engine: str, config: StageConfig) -> None:
    """Refuse settings that `engine` cannot honour; needs no weights.

    Raises:
        ConfigError: with what to use instead.
    """
    model, optim = config.model, config.optim
    if engine in SHARDS_WEIGHTS and model.quantization is Quantization.int8:
        raise ConfigError(
            f"model.quantization: got 'int8' with {engine}, expected nf4 or none: bitsandbytes"
            " keeps the scales of 8-bit weights beside them, where sharding loses them; or use"
            " DDP or ZeRO-2, which leave the weights whole"
        )
    if engine in LOCKSTEP and optim.auto_chunk:
        raise ConfigError(
            f"optim.auto_chunk: got true with {engine}, expected false: a rank that runs out of"
            " memory there leaves the others waiting in the middle of a chunk; choose"
            " optim.chunk_size by ./launch.sh plan, or use DDP"
        )
    if engine not in KEEPS_GRAPHS and optim.graph_memory not in ("auto", 0):
        raise ConfigError(
            f"optim.graph_memory: got {optim.graph_memory} with {engine}, expected auto or 0: a"
            " graph there refers to weights that are given back after each forward; use DDP or"
            " ZeRO-2"
        )
    if engine in SHARDS_WEIGHTS and config.validation.every is not None:
        raise ConfigError(
            f"validation.every: got {config.validation.every} with {engine}, expected null: every"
            " forward gathers weights there, and ranks encode unequal numbers of batches; use DDP"
            " or ZeRO-2, or evaluate checkpoints (model.adapter=RUN/checkpoints/step_…)"
        )
    every = getattr(config.data, "mine_every", None)
    if engine not in MINES and every is not None:
        raise ConfigError(
            f"data.mine_every: got {every} with {engine}, expected null: tried on one process and"
            " with DDP only; mine between runs (./launch.sh mine), or use DDP"
        )
    if engine in SHARDS_WEIGHTS and config.lora.use_dora:
        raise ConfigError(
            f"lora.use_dora: got true with {engine}, expected false: DoRA takes norms of whole"
            " weights, which are sharded there; use DDP or ZeRO-2"
        )


def graph_memory(accelerator: Accelerator, optim: OptimConfig) -> float | str:
    """``optim.graph_memory``, of which "auto" is none in lockstep: a rank that runs out of memory
    there cannot take the step again."""
    auto = optim.graph_memory == "auto" and in_lockstep(accelerator)
    return 0.0 if auto else optim.graph_memory


def _asked_for(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def engine_in_file(path: str) -> str | None:
    """The engine that a configuration of accelerate's launcher asks for; None: it does not say."""
    settings = load_yaml(path)
    assert isinstance(settings, dict)
    if settings.get("distributed_type") == "DEEPSPEED":
        stage = (settings.get("deepspeed_config") or {}).get("zero_stage")
        return None if stage is None else f"zero{stage}"
    if settings.get("distributed_type") == "FSDP":
        return f"fsdp{(settings.get('fsdp_config') or {}).get('fsdp_version', 1)}"
    return None


def _engine_asked_for() -> str | None:
    """The same of the environment that the launcher has made of it."""
    if _asked_for("DEEPSPEED"):
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
        return None if stage is None else f"zero{stage}"
    return f"fsdp{os.environ.get('FSDP_VERSION', '1')}" if _asked_for("FSDP") else None


def _handlers(config: StageConfig, on_cpu: bool) -> list[Any]:
    # buffers: constants, such as rotary frequencies
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    if _asked_for("DEEPSPEED") or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        timeout = timedelta(seconds=config.run.collective_timeout)
        handlers.append(InitProcessGroupKwargs("gloo" if on_cpu else None, timeout=timeout))
    return handlers


def _check_processes(accelerator: Accelerator) -> None:
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise ConfigError(
            f"{expected} processes were launched, but each sees {accelerator.num_processes}"
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ConfigError(
            f"accelerate's mixed_precision: got '{accelerator.mixed_precision}', expected 'no' or"
            " 'bf16'"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            "accelerate's gradient_accumulation_steps: got "
            f"{accelerator.gradient_accumulation_steps}, expected 1: several batches are no larger "
            "batch to a contrastive loss (see optim.batch_size_per_device, optim.chunk_size)"
        )


def _fill_deepspeed(settings: dict[str, Any], config: StageConfig, num_processes: int) -> None:
    """Put what our configuration decides into DeepSpeed's, which may not say it as well, and refuse
    what would change the gradient."""
    ours = {
        "train_micro_batch_size_per_gpu": config.optim.batch_size_per_device,
        "train_batch_size": config.optim.batch_size_per_device * num_processes,
        "gradient_accumulation_steps": 1,
        # accelerate would fill in 1.0, whatever we clip at
        "gradient_clipping": config.optim.max_grad_norm or 0.0,
    }
    for key, value in ours.items():
        if settings.get(key, "auto") not in ("auto", value):
            raise ConfigError(
                f"DeepSpeed's {key}: got {settings[key]}, expected 'auto' or nothing: our"
                f" configuration decides it ({value})"
            )
        settings[key] = value
    if "optimizer" in settings or "scheduler" in settings:
        raise ConfigError("DeepSpeed's optimizer and scheduler: expected none; ours are in optim")
    for key in ("bf16", "fp16", "torch_autocast"):
        if str((settings.get(key) or {}).get("enabled")).lower() == "true":
            raise ConfigError(
                f"DeepSpeed's {key} (accelerate's mixed_precision): got enabled, expected not:"
                " model.precision decides, and adapters stay in float32"
            )
    zero = settings.get("zero_optimization", {})
    for key in settings.keys() & set(REFUSED) | {f for f in zero if f.startswith(REFUSED)}:
        raise ConfigError(f"DeepSpeed's {key}: not supported, it may change the gradient")
    for key in ("offload_optimizer", "offload_param"):
        device = (zero.get(key) or {}).get("device", "none")
        if device not in ("none", "cpu"):
            raise ConfigError(f"DeepSpeed's {key}.device: got '{device}', expected none or cpu")
    # torch's AdamW on the CPU too, as on every other engine; adapters are small
    settings["zero_force_ds_cpu_optimizer"] = False
