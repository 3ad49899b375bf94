"""What only the last token is wanted of need not be computed of the others.

An embedding is the state of the last token, so behind the attention of the decoder's last layer
every other token's output projection and MLP, four fifths of that layer, go unused. Both stand in
residual branches, which one token's row broadcasts into: all other rows are then worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from unime.backbones.families import BACKBONES


@contextmanager
def last_token_alone(decoder: nn.Module, family: str) -> Iterator[None]:
    """In the block, the last column of the decoder's output is as before, and no other.

    Args:
        decoder: the language model; its batches are padded on the left.
        family: one that is not listed is left as it is.
    """
    parts = _behind_attention(decoder) if family in BACKBONES else []
    handles = [part.register_forward_pre_hook(_last_column) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _behind_attention(decoder: nn.Module) -> list[nn.Module]:
    layers = getattr(decoder, "layers", None)
    if layers is None:
        return []
    layer = layers[-1]
    parts = [
        getattr(getattr(layer, "self_attn", None), "o_proj", None),
        getattr(layer, "mlp", None),
    ]
    return [part for part in parts if part is not None] if None not in parts else []


def _last_column(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0][:, -1:], *inputs[1:])  # (B, 1, D)
