"""What decides the features of a picture: the picture as the model is given it, and the model's
parts that see."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from unime.backbones.backbone import Backbone
from unime.inputs.padding import Sample

KEY_BYTES = 16
# of a configuration: the decoder's, and what says nothing of the numbers
OTHERS = ("text_config", "_name_or_path", "architectures", "dtype", "quantization_config")


def media_key(media: Sample) -> bytes:
    """Of one unit of media: of its pixels and whatever goes with them, so of everything that shaped
    them (the file, resolution, tiles, frames, the processor's own settings and code)."""
    digest = hashlib.sha256()  # twice as fast as BLAKE2b on processors that know it
    for name, value in sorted(media.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(memory_of(value))
    return digest.digest()[:KEY_BYTES]


def tower_fingerprint(base: PreTrainedModel, backbone: Backbone) -> str:
    """Of the values of all weights outside of the decoder, adapters on them included, merged or
    stacked, their precision, and what computes with them: configuration, device, versions."""
    digest = hashlib.blake2b(digest_size=16)
    versions = [transformers.__version__, torch.__version__, base.device.type]
    attention = getattr(base.config, "_attn_implementation", None)
    digest.update(json.dumps([*versions, attention, _seeing(base.config)], sort_keys=True).encode())
    root = "" if base.base_model is base else f"{base.base_model_prefix}."
    for own, tensor in [*base.base_model.named_parameters(), *base.base_model.named_buffers()]:
        name = root + own
        if backbone.part_of(name) != "llm":
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(memory_of(tensor))
    for own, module in base.base_model.named_modules():
        scaling = getattr(module, "scaling", None)  # of adapters; of attention it is of no matter
        if scaling is not None and backbone.part_of(root + own) != "llm":
            digest.update(f"{root + own} {scaling};".encode())
    return digest.hexdigest()


def memory_of(tensor: Tensor) -> memoryview:
    """Its values as bytes, of types too that numpy lacks."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _seeing(config: Any) -> Any:
    """What of a configuration may shape features, as JSON values."""
    own = {key: value for key, value in config.to_dict().items() if key not in OTHERS}
    own.pop("transformers_version", None)
    return json.loads(json.dumps(own, sort_keys=True, default=str))
