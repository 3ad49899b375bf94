"""See tests/support/tiny/phi3_v_checkpoint.py."""

import warnings

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_attn_mask_utils import _prepare_4d_causal_attention_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import (
    add_code_sample_docstrings,
    add_start_docstrings,
    add_start_docstrings_to_model_forward,
    is_flash_attn_greater_or_equal_2_10,
    replace_return_docstrings,
)

from .configuration_phi3_v import Phi3VConfig

CLIP = CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=336,
    patch_size=84,
)


class Phi3ImageEmbedding(nn.Module):
    def __init__(self, config, wte):
        super().__init__()
        self.wte, self.vocab_size = wte, config.vocab_size
        self.img_processor = CLIPVisionModel(CLIP)
        self.img_projection = nn.Sequential(
            nn.Linear(4 * CLIP.hidden_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )

    def merged(self, tiles):  # (N, 16, C) to (N * 4, 4 C): four neighbouring patches are a token
        width = tiles.shape[-1]
        return tiles.reshape(-1, 2, 2, 2, 2, width).transpose(2, 3).reshape(-1, 4 * width)

    def forward(self, input_ids, pixel_values, image_sizes=None):
        input_ids = input_ids.view(-1, input_ids.shape[-1])
        positions = torch.nonzero((input_ids < 0) & (input_ids > -int(1e9)), as_tuple=True)
        input_ids.clamp_min_(0).clamp_max_(self.vocab_size)
        warnings.warn("Phi-3-V modifies `input_ids` in-place", stacklevel=2)
        embedded = self.wte(input_ids)
        if len(positions[0]):
            assert pixel_values.shape[2:] == (3, 336, 336)
            seen = self.img_processor(pixel_values.flatten(0, 1), output_hidden_states=True)
            tiles = seen.hidden_states[-2][:, 1:].unflatten(0, pixel_values.shape[:2])
            counts = 1 + image_sizes[:, 0] // 336 * (image_sizes[:, 1] // 336)
            shown = [image[:count] for image, count in zip(tiles, counts, strict=True)]
            seen = self.merged(torch.cat(shown)).to(self.img_projection[0].bias.dtype)
            projected = self.img_projection(seen)
            embedded = embedded.index_put(positions, projected)
        return embedded


def rotate(x, angles):
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos().to(x.dtype) + torch.cat([-second, first], -1) * angles.sin().to(x.dtype)


class Phi3Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.heads = config, config.num_attention_heads
        self.head = config.hidden_size // self.heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x, mask, position_ids):
        longest = position_ids.max() + 1 > self.config.original_max_position_embeddings
        factors = self.config.rope_scaling["long_factor" if longest else "short_factor"]
        steps = torch.arange(0, self.head, 2, device=x.device).float() / self.head
        steps = 1 / (torch.tensor(factors, device=x.device) * self.config.rope_theta**steps)
        angles = (position_ids[..., None].float() * steps).repeat(1, 1, 2)[:, None]
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, self.head)).permute(2, 0, 3, 1, 4)
        scores = rotate(q, angles) @ rotate(k, angles).transpose(2, 3) / self.head**0.5 + mask
        mixed = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Phi3MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * nn.functional.silu(gate))


class Phi3DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = Phi3Attention(config), Phi3MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, 1e-5)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, 1e-5)

    def forward(self, x, mask, position_ids):
        x = x + self.self_attn(self.input_layernorm(x), mask, position_ids)
        return x + self.mlp(self.post_attention_layernorm(x))


class Phi3VPreTrainedModel(PreTrainedModel):
    config_class = Phi3VConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Phi3DecoderLayer"]  # noqa: RUF012 (as released)
    _supports_flash_attn_2 = True
    _supports_sdpa = False

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0, self.config.initializer_range)


@add_start_docstrings("The model.", "More.")
class Phi3VModel(Phi3VPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.vision_embed_tokens = Phi3ImageEmbedding(config, self.embed_tokens)
        self.layers = nn.ModuleList(
            Phi3DecoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, 1e-5)
        self.gradient_checkpointing = False
        if config._attn_implementation == "flash_attention_2":
            assert is_flash_attn_greater_or_equal_2_10()
        self.post_init()

    @add_start_docstrings_to_model_forward("Inputs.")
    @replace_return_docstrings(output_type=BaseModelOutputWithPast, config_class="Phi3VConfig")
    @add_code_sample_docstrings(
        checkpoint="a", output_type=BaseModelOutputWithPast, config_class="Phi3VConfig"
    )
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        pixel_values=None,
        image_sizes=None,
        use_cache=None,
        return_dict=None,
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        if use_cache and not isinstance(past_key_values, Cache):
            past_key_values = DynamicCache.from_legacy_cache(past_key_values)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        if pixel_values is not None and image_sizes is not None:
            x = self.vision_embed_tokens(
                input_ids, pixel_values=pixel_values, image_sizes=image_sizes
            )
        else:
            x = self.embed_tokens(input_ids)
        mask = _prepare_4d_causal_attention_mask(
            attention_mask, tuple(input_ids.shape), x, 0, sliding_window=self.config.sliding_window
        )
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(layer.__call__, x, mask, position_ids)
            else:
                x = layer(x, mask, position_ids)
        x = self.norm(x)
        return BaseModelOutputWithPast(last_hidden_state=x) if return_dict else (x,)


class Phi3VForCausalLM(Phi3VPreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012 (as released)

    def __init__(self, config):
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def get_decoder(self):
        return self.model
