"""Texts one after another in a single row, without padding, each read as if it stood alone.

A decoder of transformers finds where they begin by their positions, which start again, where it
gets no mask: its attention is then block-diagonal, or FlashAttention's for sequences of any length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unime.backbones.backbone import Backbone
from unime.errors import ConfigError
from unime.inputs.padding import Sample

LAST = "last_tokens"  # the column of each text's last token (n,), by which a packed row is known
PROBES = ("a", "two red birds over the sea", "what is it?")  # of different lengths
FARTHEST = 0.1  # between two vectors of norm 1, of what half precision and 8 bits may change


def check_family(backbone: Backbone) -> None:
    """Refuse families whose decoder would not tell texts in a row apart; needs no weights.

    Raises:
        ConfigError: this is one.
    """
    if not backbone.packed_positions:
        raise ConfigError(f"optim.packing: expected false, which {backbone.family} has to be")


def check_apart(packed: Tensor, alone: Tensor) -> None:
    """Refuse an attention that lets texts in a row see each other, whatever its name is.

    Args:
        packed: embeddings (n, D) of texts in a row.
        alone: of each by itself.

    Raises:
        ConfigError: they differ by more than rounding.
    """
    farthest = float((packed - alone).norm(dim=1).max())
    if not farthest <= FARTHEST:
        raise ConfigError(
            "optim.packing: expected false with this model and model.attention: texts in a row are"
            f" embedded otherwise than alone (distance {farthest:.2g})"
        )


def pack(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Texts in one row of L tokens, whose mask only says how many are read."""
    lengths = [len(sample["input_ids"]) for sample in samples]
    return {
        "input_ids": torch.cat([sample["input_ids"] for sample in samples])[None],  # (1, L)
        "attention_mask": torch.ones(1, sum(lengths), dtype=torch.long),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        LAST: torch.tensor(lengths).cumsum(0) - 1,  # (n,)
    }


def decoder_inputs(packed: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """What the family's decoder takes of a packed row: M-RoPE's has the positions of the text
    before those of its three axes."""
    positions = packed["position_ids"]
    if backbone.packed_positions > 1:
        positions = positions.expand(backbone.packed_positions, *positions.shape)  # (4, 1, L)
    return {"input_ids": packed["input_ids"], "position_ids": positions}
