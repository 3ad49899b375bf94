"""Pretraining's fast path through Qwen2-VL for batches whose images all have one size.

On CPU the stock model loops over images in its vision attention and over samples in its position
ids. A pretraining batch is homogeneous (same image size, image first, padding on the right), so
both become one tensor operation. `tests/data_prep/test_base.py` holds this path equal to the
stock one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLVisionBlock,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_position_ids

from data_prep.demo_base.model import MERGE, PATCH

IMAGE_START = 4  # <|im_start|> user \n <|vision_start|>, then the image


def make_patches(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> the processor's (B, patches, 3 * 8 * 8), one temporal copy."""
    batch, height, width, _ = images.shape
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    rows, columns = height // (PATCH * MERGE), width // (PATCH * MERGE)
    pixels = pixels.reshape(batch, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
    return pixels.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(
        batch, rows * columns * MERGE**2, 3 * PATCH * PATCH
    )


@lru_cache(maxsize=16)
def _grid(height: int, width: int) -> Tensor:
    return torch.tensor([[1, height // PATCH, width // PATCH]])


def vision_features(
    visual: Qwen2VisionTransformerPretrainedModel, patches: Tensor, size: tuple[int, int]
) -> Tensor:
    """Image tokens for the language model, (B, tokens, hidden)."""
    batch, length, _ = patches.shape
    weight = visual.patch_embed.proj.weight.sum(2).flatten(1)  # both frames are the same image
    hidden = F.linear(patches, weight)
    positions = get_vision_position_ids(_grid(*size), MERGE)
    cos, sin = visual.rotary_pos_emb(hidden, positions)
    for block in visual.blocks:
        assert isinstance(block, Qwen2VLVisionBlock)
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden))
        query, key, value = qkv.view(batch, length, 3, attention.num_heads, -1).unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        # Written out: the CPU flash kernel's backward is several times slower at 64 patches.
        scores = query @ key.transpose(2, 3) * attention.scaling
        mixed = (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2)
        hidden = hidden + attention.proj(mixed.reshape(batch, length, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden).view(batch, length // MERGE**2, -1)


@lru_cache(maxsize=256)
def positions_3d(length: int, size: tuple[int, int] | None) -> Tensor:
    """M-RoPE positions (3, 1, length) of a sequence whose image, if any, stands first."""
    if size is None:
        return torch.arange(length).expand(3, 1, length)
    rows, columns = size[0] // (PATCH * MERGE), size[1] // (PATCH * MERGE)
    row = torch.arange(rows).repeat_interleave(columns) + IMAGE_START
    column = torch.arange(columns).repeat(rows) + IMAGE_START
    image = torch.stack([torch.full_like(row, IMAGE_START), row, column])
    after = IMAGE_START + max(rows, columns)
    rest = torch.arange(length - IMAGE_START - rows * columns) + after
    before = torch.arange(IMAGE_START).expand(3, -1)
    return torch.cat([before, image, rest.expand(3, -1)], dim=1)[:, None]


def hidden_states(
    model: Qwen2VLForConditionalGeneration,
    input_ids: Tensor,
    patches: Tensor | None,
    size: tuple[int, int] | None,
) -> Tensor:
    """Last hidden states (B, L, hidden) of right-padded sequences; no mask is needed then."""
    decoder = model.model.language_model
    embeds = decoder.embed_tokens(input_ids)
    if patches is not None and size is not None:
        features = vision_features(model.model.visual, patches, size).to(embeds.dtype)
        end = IMAGE_START + features.shape[1]
        embeds = torch.cat([embeds[:, :IMAGE_START], features, embeds[:, end:]], dim=1)
    positions = positions_3d(input_ids.shape[1], size).expand(-1, input_ids.shape[0], -1)
    return decoder(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
