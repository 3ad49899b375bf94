"""Whether two checkpoints hold the same weights, whatever they are called and wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SAMPLED = 256  # numbers of every tensor, from its begin


def base_digest(folder: Path) -> str | None:
    """Of the beginnings of all tensors, rounded to bfloat16: the same for a checkpoint that was cut
    into other files, renamed, or saved in another precision; None where no file can be read."""
    found = set()  # of what is shared some checkpoints hold two copies
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                    part = file.get_slice(name)
                    shape = part.get_shape()
                    first = part[: 1 if len(shape) > 1 else SAMPLED] if shape else None
                    first = file.get_tensor(name) if first is None else first
                    found.add((tuple(shape), _bytes(first.flatten()[:SAMPLED])))
    except (OSError, SafetensorError):
        return None
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:32] if found else None


def adapter_digest(tensors: Mapping[str, Tensor]) -> str:
    """Of all numbers of an adapter, whatever its tensors are called."""
    parts = sorted(
        hashlib.sha256(repr(tuple(of.shape)).encode() + _exact(of)).digest()
        for of in tensors.values()
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def _exact(values: Tensor) -> bytes:
    return values.detach().cpu().float().contiguous().numpy().tobytes()


def _bytes(values: Tensor) -> bytes:
    return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
