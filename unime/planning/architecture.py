"""What a backbone is made of, read off its configuration on the meta device: no weight is loaded.

Rows are what a part's layers see of an item: tokens in the language model, patches in the vision
tower, merged patches in the projector. Dense models only; experts would have to be counted apart.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from unime.backbones.backbone import Backbone
from unime.backbones.families import backbone_of
from unime.backbones.layers import is_linear
from unime.config import LoraSettings, ModelConfig, Quantization
from unime.errors import ConfigError
from unime.inputs.padding import Sample, shows_images
from unime.models.features.frozen import takes_features

PARTS_IN_ORDER = ("vision", "projector", "llm")  # as an image passes through them
ABSMAX_BLOCK = 64  # weights that share a scale in NF4 (QLoRA, arXiv 2305.14314; bitsandbytes 0.50)
NESTED_BLOCK = 256  # of these scales, 8 bits each, that share an fp32 one
CODEBOOKS = 4 * (16 + 256 + 1)  # bytes a layer: NF4's values, those of the scales, their mean


@dataclass(frozen=True)
class Linear:
    """A linear layer of the encoder, or the convolution that makes patches."""

    part: str
    inputs: int
    outputs: int
    adapted: bool  # by the adapter that is trained
    is_patch: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Block:
    """A layer of a transformer, of which gradient checkpointing keeps the input."""

    part: str
    width: int  # of the residual stream
    inner: int  # of the feed-forward network
    attention: int  # heads × their width
    mlp_tensors: int  # of width `inner` that autograd keeps
    norms: int  # the widths of its normalisations, added up
    exact_norms: bool  # RMSNorm, which works in fp32; LayerNorm works in the model's precision
    linears: tuple[Linear, ...]


@dataclass(frozen=True)
class Architecture:
    """The encoder's layers and the bytes of its frozen weights."""

    backbone: Backbone
    linears: tuple[Linear, ...]
    blocks: tuple[Block, ...]
    hidden_size: int
    parameters: int
    quantised_bytes: int
    other_bytes: int  # parameters in the model's precision, and buffers
    patch_side: int  # pixels
    patches_per_tile: int | None  # where the vision tower has one image size
    class_tokens: int  # which it adds to the patches of a tile
    takes_features: bool  # in place of pixels, so that a frozen tower runs once a step

    @property
    def patches_per_row(self) -> int:
        """How many patches the projector's first layer takes as one row."""
        width = next((linear.outputs for linear in self.linears if linear.is_patch), 1)
        first = next((linear for linear in self.linears if linear.part == "projector"), None)
        return max(1, first.inputs // width) if first else 1


@dataclass(frozen=True)
class ItemShape:
    """Rows of one item in each part; of a text only the language model's."""

    tokens: int
    image_tokens: int = 0  # of these
    patches: int = 0  # with the tower's class tokens
    tiles: int = 0  # pieces of an image that attend to themselves in the tower
    projected: int = 0

    def rows(self, part: str) -> int:
        return {"llm": self.tokens, "vision": self.patches, "projector": self.projected}[part]


def read_architecture(
    model: ModelConfig, lora: LoraSettings, decoder_only: bool = False
) -> Architecture:
    """Build the model without weights and list the layers that `Encoder.load` would register.

    Raises:
        ConfigError: a configuration that cannot be had, or a part without linear layers.
    """
    config, backbone, base = _without_weights(model)
    core = cast(nn.Module, base.get_decoder() if decoder_only else base.base_model)
    root = next(name for name, module in base.named_modules() if module is core)
    targets = re.compile(backbone.lora_targets(base, lora.train))
    modules = dict(core.named_modules(prefix=root))
    linears: dict[str, Linear] = {}
    for path, module in modules.items():
        part = backbone.part_of(path)
        if part is not None and is_linear(module):
            sizes = (module.in_features, module.out_features)
            linears[path] = Linear(part, *sizes, adapted=targets.fullmatch(path) is not None)
        elif part == "vision" and isinstance(module, nn.Conv2d | nn.Conv3d):
            inputs = module.in_channels * math.prod(module.kernel_size)
            linears[path] = Linear(part, inputs, module.out_channels, adapted=False, is_patch=True)
    held = sum(tensor.nbytes for tensor in (*core.parameters(), *core.buffers()))
    is_quantised = model.quantization is not Quantization.none
    quantised = [one for one in linears.values() if one.part == "llm" and is_quantised]
    itemsize = getattr(torch, model.precision.value).itemsize
    patch = next((modules[path] for path, one in linears.items() if one.is_patch), None)
    return Architecture(
        backbone=backbone,
        linears=tuple(linears.values()),
        blocks=tuple(_blocks(modules, linears, config)),
        hidden_size=config.get_text_config().hidden_size,
        parameters=sum(parameter.numel() for parameter in core.parameters()),
        quantised_bytes=sum(quantised_bytes(one, model.quantization) for one in quantised),
        other_bytes=held - itemsize * sum(one.weights for one in quantised),
        patch_side=cast(nn.Conv2d, patch).kernel_size[-1] if patch is not None else 1,
        patches_per_tile=_patches_per_tile(config),
        class_tokens=sum("class_embedding" in name for name, _ in core.named_parameters()),
        takes_features=not decoder_only and takes_features(core),
    )


def quantised_bytes(linear: Linear, quantization: Quantization) -> int:
    """Of a layer's weights in 4 bits with doubly quantised scales (0.516 bytes a weight, and 1 KiB
    of codebooks), or in 8 bits with an fp32 scale a row."""
    if quantization is Quantization.int8:
        return linear.weights + 4 * linear.outputs
    scales = math.ceil(linear.weights / ABSMAX_BLOCK)
    nested = math.ceil(scales / NESTED_BLOCK)
    return math.ceil(linear.weights / 2) + scales + 4 * nested + CODEBOOKS


def shape_of_sample(sample: Sample, image_token: int, architecture: Architecture) -> ItemShape:
    """The rows of an item that the family's own processor has prepared."""
    tokens = sample["input_ids"]
    if not shows_images(sample):
        return ItemShape(len(tokens))
    pixels = next(value for key, value in sample.items() if "pixel_values" in key)
    if pixels.ndim == 2:  # Qwen-VL: one row a patch, and each image's grid
        patches, tiles = len(pixels), len(sample["image_grid_thw"])
    else:  # (…, colours, height, width)
        tiles = math.prod(pixels.shape[:-3])
        height, width = (side // architecture.patch_side for side in pixels.shape[-2:])
        patches = tiles * height * width
    shown = int((tokens == image_token).sum())
    return shape_with_image(len(tokens), shown, patches, tiles, architecture)


def shape_with_image(
    tokens: int, image_tokens: int, patches: int, tiles: int, architecture: Architecture
) -> ItemShape:
    """Of an item of `tokens`, those of its image among them."""
    seen = patches + tiles * architecture.class_tokens
    return ItemShape(tokens, image_tokens, seen, tiles, patches // architecture.patches_per_row)


def _without_weights(model: ModelConfig) -> tuple[PretrainedConfig, Backbone, PreTrainedModel]:
    trust = {"trust_remote_code": model.trust_remote_code}
    dtype = getattr(torch, model.precision.value)
    try:
        config = AutoConfig.from_pretrained(model.name, revision=model.revision, **trust)
        backbone = backbone_of(config, model.trust_remote_code)
        if backbone.adapt is not None:  # its layers are not transformers', which _blocks looks for
            raise ValueError("it brings its own code, whose memory is not known")
        with torch.device("meta"):
            base = backbone.auto_model.from_config(config, dtype=dtype, **trust)
    except (OSError, ImportError, ValueError, KeyError) as error:
        raise ConfigError(f"model.name: {model.name} cannot be planned: {error}") from error
    return config, backbone, base


def _blocks(modules: dict[str, nn.Module], linears: dict[str, Linear], config: Any) -> list[Block]:
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    blocks = []
    for path, module in modules.items():
        inside = {name: one for name, one in linears.items() if name.startswith(f"{path}.")}
        if isinstance(module, GradientCheckpointingLayer) and inside:
            blocks.append(_block(module, inside, text.num_attention_heads * head))
    return blocks


def _block(module: nn.Module, inside: dict[str, Linear], llm_attention: int) -> Block:
    last = list(inside.values())[-1]  # of the feed-forward network, which follows attention
    attention = last.outputs if last.part == "vision" else llm_attention
    names = [type(child).__name__ for child in module.modules()]
    mlp_tensors = 2 if any("QuickGELU" in name for name in names) else 1  # x · sigmoid(1.702 x)
    if any("gate" in name for name in inside):
        mlp_tensors = 3  # SwiGLU: gate, silu(gate), up
    norms = [child for child in module.modules() if "Norm" in type(child).__name__]
    widths = [cast(Tensor, norm.weight).numel() for norm in norms]
    return Block(
        part=last.part,
        width=last.outputs,
        inner=last.inputs,
        attention=attention,
        mlp_tensors=mlp_tensors,
        # a norm of single heads (Qwen3) works on all of them
        norms=sum(width if width == last.outputs else attention for width in widths),
        exact_norms=not any(isinstance(norm, nn.LayerNorm) for norm in norms),
        linears=tuple(inside.values()),
    )


def _patches_per_tile(config: Any) -> int | None:
    vision = getattr(config, "vision_config", None)
    size, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    return (size // patch) ** 2 if isinstance(size, int) and isinstance(patch, int) else None
