"""How many chunks keep their graph between the first pass and the loss (``optim.graph_memory``).

What a graph takes is measured: on a GPU by what each forward leaves allocated; elsewhere by the
storages that are still there after it, in a process's first step and for the first chunk of its
kind, and reckoned by tokens from then on. Which chunks keep theirs changes no number
(grad_cache.py), only how long a step takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

AUTO = "auto"
RESERVE = 0.1  # of a GPU's memory, which "auto" leaves alone
GIB = 2**30
Chunk = list[dict[str, Any]]


class GraphMemory:
    """The memory that graphs may take, and take.

    Args:
        limit: GiB; "auto": on a GPU what is left of it when a step has kept one graph, with a
            reserve; elsewhere none.

    Attributes:
        limit: bytes; None: not known before the first step is over.
    """

    def __init__(self, limit: float | str = 0.0, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._on_gpu = self.device.type == "cuda"
        self.limit = float(limit) * GIB if limit != AUTO else None if self._on_gpu else 0.0
        self._sizes: list[float] = []  # of this step's graphs
        self._per_token: dict[frozenset[str], float] = {}  # the most bytes, by a chunk's inputs
        self.largest = 0.0  # of a chunk, that was measured
        self._first_step = True

    @property
    def kept(self) -> int:
        """Chunks of this step whose graph is kept."""
        return len(self._sizes)

    @property
    def used(self) -> float:
        """Bytes of these graphs."""
        return sum(self._sizes)

    def begin(self) -> None:
        """A step begins."""
        self._sizes = []

    def has_room(self, chunk: Chunk) -> bool:
        """Whether the graph of a chunk should fit; of the first of its kind there is no telling."""
        if self.limit is None:
            return not self._sizes
        return self.limit > 0 and self.used + self._expected(chunk) <= self.limit

    @contextmanager
    def measured(self, chunk: Chunk) -> Iterator[None]:
        """Take the graph that a forward builds in here into account."""
        if self._on_gpu:
            before = torch.cuda.memory_allocated(self.device)
            yield
            size = float(torch.cuda.memory_allocated(self.device) - before)
        elif self._first_step or _kind(chunk) not in self._per_token:
            with _NewStorages() as new:
                yield
            size = new.size
        else:
            yield
            size = self._expected(chunk)
        kind, per_token = _kind(chunk), size / _tokens(chunk)
        self._per_token[kind] = max(self._per_token.get(kind, 0.0), per_token)
        self._sizes.append(size)
        self.largest = max(self.largest, size)

    def exceeded(self) -> bool:
        """Whether the graph just measured is one too many; it is then not counted any more."""
        if self.limit is None or self.used <= self.limit:
            return False
        self._sizes.pop()
        return True

    def end(self) -> None:
        """The step is over: from the first one "auto" knows what a step needs beside graphs."""
        self._first_step = False
        if self.limit is None:
            free, total = torch.cuda.mem_get_info(self.device)
            mine = free + torch.cuda.memory_reserved(self.device)
            left = mine - torch.cuda.max_memory_allocated(self.device) - RESERVE * total
            self.limit = self.used + max(0.0, left)

    def shrink(self) -> bool:
        """There was no memory: keep half as much. False: no graph was kept."""
        if not self._sizes:
            return False
        self.limit = self.used / 2 if len(self._sizes) > 1 else 0.0
        return True

    def _expected(self, chunk: Chunk) -> float:
        return self._per_token.get(_kind(chunk), 0.0) * _tokens(chunk)


class _NewStorages(TorchDispatchMode):
    """Of what is computed in here, the bytes that outlive it."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: list[weakref.ref[torch.UntypedStorage]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        self._storages += [weakref.ref(s) for s in _storages(result) if id(s) not in given]
        return result

    @property
    def size(self) -> float:
        alive = {id(s): s.nbytes() for s in (ref() for ref in self._storages) if s is not None}
        return float(sum(alive.values()))


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _kind(chunk: Chunk) -> frozenset[str]:
    return frozenset(key for part in chunk for key in part)


def _tokens(chunk: Chunk) -> int:
    """With padding."""
    return sum(part["attention_mask"].numel() for part in chunk)
