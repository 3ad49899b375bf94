"""What a processor makes of one item, and how several of them become one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Sample = dict[str, Tensor]  # the model input of one item, not padded

SEQUENCE_KEYS = (  # one entry per token: (L, …)
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "cross_attention_mask",
)


def shows_images(inputs: Iterable[str]) -> bool:
    """Whether a sample or a batch has images or videos, however its family names them."""
    return any("pixel_values" in key for key in inputs)


def join(values: Sequence[Tensor]) -> Tensor:
    """Concatenate along dimension 0; smaller trailing dimensions are filled with zeros."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        missing = [
            amount
            for have, want in zip(reversed(value.shape[1:]), reversed(shape), strict=True)
            for amount in (0, want - have)
        ]
        padded.append(functional.pad(value, missing) if any(missing) else value)
    return torch.cat(padded)
