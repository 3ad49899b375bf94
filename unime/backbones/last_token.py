"""What only the last token is wanted of need not be computed of the others.

An embedding is the state of the last token, so behind the attention of the decoder's last layer
every other token's output projection and MLP, four fifths of that layer, go unused. Both stand in
residual branches, which one token's row broadcasts into: all other rows are then worth nothing, and
get no gradient, as before.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class LastTokenAlone:
    """While it is `active`, the last column of the decoder's output is as it was, and no other.

    Args:
        decoder: the language model, adapters inside; None: nothing is left out.
    """

    def __init__(self, decoder: nn.Module | None) -> None:
        self.active = False
        for part in _behind_attention(decoder):
            part.register_forward_pre_hook(self._last_column)

    def _last_column(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:, -1:], *inputs[1:]) if self.active else inputs  # (B, 1, D)


def _behind_attention(decoder: nn.Module | None) -> list[nn.Module]:
    """Of the last layer; none, if it is not made as most are."""
    layers = getattr(decoder, "layers", None) or [None]
    attention, mlp = getattr(layers[-1], "self_attn", None), getattr(layers[-1], "mlp", None)
    parts = [getattr(attention, "o_proj", None), mlp]
    return [part for part in parts if isinstance(part, nn.Module)] * all(parts)
