"""What Phi-3.5-vision's own code, written for transformers 4, needs to run under transformers 5.

The code comes with the weights and runs only where ``model.trust_remote_code`` is true. Nothing
of transformers or of that code is replaced: one attribute and two hooks on what was loaded, and,
while it is loaded, what it imports and transformers no longer has.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

PLACEHOLDER = r"<\|image_\d+\|>"  # which the processor cuts out before the tokenizer sees the text


def _causal_mask(
    attention_mask: Tensor | None,
    input_shape: tuple[int, int],
    inputs_embeds: Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> Tensor:
    """What is added to scores before the softmax: 0 where a query sees a key, the type's least
    number where the key comes later, is padding (0 in `attention_mask`, (B, K)) or lies more than
    `sliding_window` back; (B, 1, L, K)."""
    batch, length = input_shape
    keys = torch.arange(past_key_values_length + length, device=inputs_embeds.device)  # (K,)
    back = keys[past_key_values_length:, None] - keys  # (L, K)
    seen = (back >= 0).expand(batch, 1, *back.shape)
    if sliding_window is not None:
        seen = seen & (back <= sliding_window)
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None].bool()
    least = torch.finfo(inputs_embeds.dtype).min
    return inputs_embeds.new_zeros(seen.shape).masked_fill(~seen, least)


def _leaves_docstring(*_: object, **__: object) -> Callable[[Any], Any]:
    return lambda decorated: decorated


SUPPLIED: dict[str, dict[str, Any]] = {
    # removed in transformers 5.24
    "transformers.modeling_attn_mask_utils": {"_prepare_4d_causal_attention_mask": _causal_mask},
    "transformers.utils": {
        "is_flash_attn_greater_or_equal_2_10": lambda: True,  # removal announced; 2.1 is of 2023
        "add_code_sample_docstrings": _leaves_docstring,
        "add_start_docstrings": _leaves_docstring,
        "add_start_docstrings_to_model_forward": _leaves_docstring,
        "replace_return_docstrings": _leaves_docstring,
    },
}


@contextmanager
def importable() -> Iterator[None]:
    """While entered, its code can be imported: what the installed transformers lacks of `SUPPLIED`
    is there, for whoever asks, and gone again afterwards."""
    with ExitStack() as undo:
        for path, supplied in SUPPLIED.items():
            try:
                module = importlib.import_module(path)
            except ModuleNotFoundError:
                module = sys.modules[path] = ModuleType(path)
                undo.callback(sys.modules.pop, path)
            for name, value in supplied.items():
                if not hasattr(module, name):
                    setattr(module, name, value)
                    undo.callback(delattr, module, name)
        yield


def call_processor(
    processor: Any, prompt: str, images: list[Image.Image] | None
) -> Mapping[str, Tensor]:
    """It takes one text, no list of them, and no ``add_special_tokens``: every piece of the text
    between images starts with ``<s>``, and is meant to."""
    return processor(text=prompt, images=images, return_tensors="pt")


def tiles_of_crops(most: int, processor: Any, config: Any) -> None:
    """At most so many crops of 336 pixels of an image, beside the whole image in small."""
    processor.image_processor.num_crops = most


def adapt(processor: Any, model: nn.Module) -> None:
    """Make what `AutoProcessor` and `AutoModelForCausalLM` loaded usable here."""
    # Its __init__ does not call ProcessorMixin's, whose apply_chat_template reads this.
    processor.chat_template = None
    model._tied_weights_keys = {}  # type: ignore[assignment]  # a list, of what is not tied
    core: Any = model.get_submodule("model")
    core.vision_embed_tokens.register_forward_pre_hook(_own_input_ids)
    core.register_forward_pre_hook(_as_if_alone, with_kwargs=True)
    warnings.filterwarnings("ignore", "Phi-3-V modifies `input_ids` in-place")  # not the caller's


def _own_input_ids(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """It overwrites the negative ids that say where images go, so that a second forward of the
    same batch (gradient caching) would embed no image."""
    return (inputs[0].clone(), *inputs[1:])


def _as_if_alone(
    module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positions count from the first real token, not from the padding before it, and nothing is as
    long as to change the rotary factors, which are one set for the whole batch. (Without
    `return_dict` it asks its configuration for a deprecated property.)"""
    config: Any = module.config
    length, limit = inputs["input_ids"].shape[1], config.original_max_position_embeddings
    if length > limit:
        raise ValueError(
            f"phi3_v: an item of {length} tokens, more than the {limit} up to which it does not"
            " change the vectors of other items; fewer images, or fewer crops of each"
        )
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)  # (B, L)
    return args, {**inputs, "position_ids": positions, "return_dict": True}
