"""What a LoRA layer adds to its base layer's result, with fewer passes over whole activations.

peft scales the adapter's output, as wide as the layer's, and adds it; here the product, its scale
and the sum are one operation, and where types differ the scale is put on the low-rank side.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn


class LoraSum(LoraVariant):
    """result + scaling · B A dropout(x), for adapters that are trained and not merged."""

    @staticmethod
    def forward(
        module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """The layer's result with the adapter's part (…, out)."""
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        scaling = module.scaling[active_adapter]
        narrow = down(module.lora_dropout[active_adapter](x))  # (…, rank)
        weight = up.weight
        if result.dtype != narrow.dtype or result.dtype != weight.dtype or hasattr(weight, "ds_id"):
            return result + up(narrow * scaling)  # ZeRO-3 gathers a weight when its layer is called
        rows = torch.addmm(result.flatten(0, -2), narrow.flatten(0, -2), weight.t(), alpha=scaling)
        return rows.view(result.shape)


def add_in_one(model: nn.Module) -> int:
    """Let the LoRA layers of `model` that train, and are nothing else than LoRA, add in this way.

    Returns:
        How many there are.
    """
    count = 0
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for name, up in layer.lora_B.items():
            plain = isinstance(up, nn.Linear) and up.bias is None and name not in layer.lora_variant
            if plain and up.weight.requires_grad:
                layer.lora_variant[name] = LoraSum()
                count += 1
    return count
