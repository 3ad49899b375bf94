"""Texts as fixed-width keys, which can be sorted and searched in one array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def text_key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def text_keys(texts: Iterable[str]) -> np.ndarray:
    return key_array(map(text_key, texts))


def key_array(keys: Iterable[bytes]) -> np.ndarray:
    return np.array(list(keys), dtype="S16")  # (n,)


def find_keys(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of `wanted` in the sorted `keys`, -1 where there is none."""
    if not len(keys):
        return np.full(len(wanted), -1)
    rows = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[rows] == wanted, rows, -1)  # (n,)
