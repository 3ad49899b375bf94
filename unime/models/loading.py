"""What transformers loads of a checkpoint: configuration, processor and weights, checked; and which
layers bitsandbytes then holds in 4 or 8 bits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import AutoConfig, AutoProcessor, BitsAndBytesConfig, PreTrainedModel

from unime.backbones.backbone import Backbone
from unime.backbones.families import backbone_of
from unime.backbones.layers import is_quantised
from unime.backbones.packing import check_family
from unime.config import InputConfig, ModelConfig, Quantization
from unime.errors import ConfigError
from unime.models.adapter_files import trained_inputs
from unime.models.checkpoint_files import (
    Checkpoint,
    check_complete,
    check_config,
    check_processor,
    check_weights,
)
from unime.models.explaining import explained
from unime.models.hub import locate
from unime.models.item_processor import ItemProcessor
from unime.models.stated_sizes import check_pictures, check_plan
from unime.runtime.files import read_json
from unime.runtime.progress import quiet_transformers

_REPACKS = "support_avx512bf16_for_cpu"


def load_pretrained(
    model: ModelConfig,
    checkpoint: Checkpoint,
    device: torch.device,
    sharded: bool,
    packing: bool = False,
) -> tuple[Backbone, Any, PreTrainedModel]:
    """Load the processor of a checkpoint and its base, made fit for each other."""
    folder = checkpoint.base.folder
    with explained(model):
        config, processor = _config_and_processor(model, checkpoint)
        check_plan(folder, check_weights(checkpoint.base), model.trust_remote_code)
        backbone = backbone_of(config, model.trust_remote_code)
        if sharded and backbone.group is not None:
            raise ConfigError(
                f"model.name: {backbone.family} takes as many forwards as a batch has kinds of"
                " rows, and where weights are sharded every rank has to take as many; use DDP"
                " or ZeRO-2"
            )
        if packing:
            check_family(backbone)
        base = _load_base(model, folder, backbone, device, sharded)
        if backbone.adapt is not None:
            backbone.adapt(processor, base)
    return backbone, processor, base


def load_item_processor(model: ModelConfig, inputs: InputConfig) -> ItemProcessor:
    """What makes a model's inputs of items, as `Encoder.load` has it, without the model's weights.

    Raises:
        ConfigError: a model whose processor cannot be used.
    """
    checkpoint, code = locate(model), {"trust_remote_code": model.trust_remote_code}
    with explained(model):
        config, processor = _config_and_processor(model, checkpoint)
        backbone = backbone_of(config, model.trust_remote_code)
        if backbone.adapt is not None:
            with backbone.importing(), torch.device("meta"):
                backbone.adapt(processor, backbone.auto_model.from_config(config, **code))
    adapter = checkpoint.adapter.folder if checkpoint.adapter else None
    inputs = inputs.filled(trained_inputs(checkpoint.base.folder, adapter))
    backbone.limit_tiles(inputs.max_tiles or 0, processor, config)
    return ItemProcessor(processor, backbone, inputs, backbone.most_tokens(config))


def _config_and_processor(model: ModelConfig, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Of a checkpoint, looked at before and after transformers reads them."""
    code, folder = {"trust_remote_code": model.trust_remote_code}, checkpoint.base.folder
    if model.trust_remote_code:
        check_own_code(folder)
    check_config(checkpoint.base)
    config = AutoConfig.from_pretrained(folder, **code)
    check_processor(checkpoint.processor)
    processor = AutoProcessor.from_pretrained(checkpoint.processor.folder, **code)
    check_pictures(processor)
    return config, processor


def check_own_code(folder: Path) -> None:
    """Refuse code that lies in another repository, which ``model.revision`` does not pin."""
    for path in folder.glob("*config.json"):
        classes = read_json(path, key="model.name").get("auto_map", {})
        for name in classes.values() if isinstance(classes, dict) else (classes,):
            if "--" in str(name):
                raise ConfigError(
                    f"model.trust_remote_code: {path} names code of another repository, {name}:"
                    " put a copy that you have read beside it"
                )


def _load_base(
    model: ModelConfig,
    folder: Path,
    backbone: Backbone,
    device: torch.device,
    sharded: bool,
) -> PreTrainedModel:
    dtype = getattr(torch, model.precision.value)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": backbone.attention(model.attention),
        "trust_remote_code": model.trust_remote_code,
        "use_safetensors": True,
    }
    if model.quantization is Quantization.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
            llm_int8_skip_modules=backbone.not_quantised,
        )
    elif model.quantization is Quantization.int8:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=backbone.not_quantised
        )
    if "quantization_config" in options:
        options["device_map"] = {"": device}  # bitsandbytes would choose one itself
        logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)  # a line per call
    quiet_transformers()
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # check_complete
    with backbone.importing():
        loaded: Any = backbone.auto_model.from_pretrained(folder, **options)
    base: PreTrainedModel = loaded[0]
    check_complete(model.name, base, loaded[1])
    # What adapters are saved with: not a folder of the hub's cache, nor one relative to where this
    # program was started.
    local = Path(model.name)
    base.name_or_path = str(local.resolve()) if local.is_dir() else model.name
    for module in base.modules():
        # With AVX512-BF16, bitsandbytes 0.50 repacks a weight for good at its first evaluation on
        # CPU: other numbers than in training, and an error for widths that 64 does not divide.
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
    return base


def check_quantised(
    base: PreTrainedModel, backbone: Backbone, quantization: Quantization, device: torch.device
) -> None:
    """bitsandbytes skips modules by name and says nothing when a name matches none; and on CPU it
    (0.50.2) decodes weights wrongly whose rows are not whole blocks of 64. So look."""
    found = {name: module for name, module in base.named_modules() if is_quantised(module)}
    outside = [name for name in found if backbone.part_of(name) != "llm"]
    if outside:
        raise ConfigError(
            f"model.quantization: {len(outside)} layers outside {backbone.language_model} were"
            f" quantised, first {outside[0]}; name their module in unime/backbones/families.py"
        )
    if not found and quantization is not Quantization.none:
        raise ConfigError(
            f"model.quantization: no layer of {backbone.language_model} became"
            f" {quantization.value}; check its path in unime/backbones/families.py"
        )
    for name, module in found.items():
        width = cast(nn.Linear, module).in_features
        if quantization is Quantization.nf4 and device.type == "cpu" and width % 64:
            raise ConfigError(
                f"model.quantization: nf4 on CPU needs widths that 64 divides, {name} has {width}"
            )
        if quantization is Quantization.int8:
            module.register_forward_pre_hook(_keep_scales)


def _keep_scales(module: nn.Module, _: Any) -> None:
    """On a CPU, peft's DoRA (0.21) gives an 8-bit layer a new weight without scales, as if it had
    just been quantised; it keeps those it has."""
    weight: Any = module.weight
    if weight.CB is not None and weight.SCB is None:
        weight.CB = None


def dequantise(base: PreTrainedModel) -> None:
    """Hold quantised weights as what they stand for, in the precision of the other ones."""
    for name, module in list(base.named_modules()):
        if is_quantised(module):
            quantised = cast(nn.Linear, module)
            plain = nn.Linear(quantised.in_features, quantised.out_features, False, device="meta")
            weight = dequantize_module_weight(module).detach().to(base.dtype)
            plain.weight = nn.Parameter(weight, requires_grad=False)
            plain.register_parameter("bias", quantised.bias)
            base.set_submodule(name, plain)
    base.hf_quantizer = None  # type: ignore[assignment]
    for config in (base.config, base.base_model.config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
