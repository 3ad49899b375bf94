"""Which layers bitsandbytes holds in 4 or 8 bits, and whether they are those that it should."""

from __future__ import annotations

from typing import cast

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import PreTrainedModel

from unime.backbones.backbone import Backbone
from unime.backbones.layers import is_quantised
from unime.config import Quantization
from unime.errors import ConfigError


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
