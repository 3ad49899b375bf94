"""Batches made in worker processes, whose failures end a program in one line, and at once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from unime.errors import DataError
from unime.runtime.interruption import leave_signals_to_parent

T = TypeVar("T")


class _Made(Dataset[Any]):
    def __init__(self, make: Callable[[Any], Any], wanted: Sequence[Any]) -> None:
        self.make, self.wanted = make, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> Any:
        try:
            return self.make(self.wanted[place])
        except Exception as error:  # whatever a library raises
            # Raised here, it would have the worker's traceback, and hold on to the other workers.
            return DataError(in_words(error))


@contextmanager
def load_batches(
    make: Callable[[Any], T], wanted: Sequence[Any], num_workers: int
) -> Iterator[Iterator[T]]:
    """What `make` makes of each of the `wanted`, in order, ahead of time in `num_workers` processes
    if there are any, which are gone when the block is left, however it is left.

    Raises:
        DataError: `make` failed, in its words; or a worker was killed.
    """
    loader = DataLoader(
        _Made(make, wanted),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator().manual_seed(0),  # its own: a loader's start draws a number
    )
    batches = iter(loader)
    try:
        yield _raising(batches)
    except RuntimeError as error:  # torch raises it wherever the program is
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise DataError(
            f"{reason} Out of memory? Fewer workers (run.num_workers) need less"
        ) from None
    finally:
        _end_workers(batches)


def _raising(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _end_workers(batches: Any) -> None:
    """They leave signals to their parent, so Python would wait for them at its end, for ever."""
    workers = getattr(batches, "_workers", [])
    if workers:
        batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():  # after the seconds that torch gives it: in the middle of a batch
            worker.kill()


def _as_it_is(batch: Any) -> Any:
    return batch


def in_words(error: Exception) -> str:
    """An error in one line; of one that is not about the data, also where it comes from."""
    if isinstance(error, DataError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def named(what: str, error: Exception) -> DataError:
    """The error of one row or item, which `what` names."""
    return DataError(f"{what}: {in_words(error)}")
