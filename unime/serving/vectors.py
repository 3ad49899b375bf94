"""Vectors in the types that dialects ask for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from unime.embedder import as_output, check_output
from unime.serving.requests import Asked, Embedded, RequestError

OUTPUTS = {  # of the embedder
    "float": "float32", "base64": "float32", "int8": "int8", "uint8": "int8",
    "binary": "binary", "ubinary": "ubinary",
}  # fmt: skip


def check(asked: Asked, dimension: int) -> None:
    """Refuse sizes and types that the model's vectors cannot have.

    Raises:
        RequestError: more dimensions than there are, or a part of a byte.
    """
    for output in asked.outputs:
        try:
            check_output(OUTPUTS[output], asked.dimensions, dimension)
        except ValueError as error:
            raise RequestError(str(error).replace("dimensions", asked.size_key, 1)) from None


def typed(
    found: Sequence[Embedded], asked: Asked, output: str, in_base64: bool = False
) -> list[Any]:
    """Each item's vector as JSON has it: numbers, or base64 of their bytes (little-endian), as
    "base64" is of float32. uint8 is int8 with 128 added."""
    vectors = as_output(np.stack([one.vector for one in found]), asked.dimensions, OUTPUTS[output])
    if output == "uint8":
        vectors = (vectors.astype(np.int16) + 128).astype(np.uint8)
    if not in_base64 and output != "base64":
        return list(vectors.tolist())
    ordered = vectors.astype(vectors.dtype.newbyteorder("<"))
    return [base64.b64encode(vector.tobytes()).decode() for vector in ordered]
