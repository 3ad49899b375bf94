"""Batches made in worker processes, whose failures end a program in one line, and at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from unime.errors import ConfigError, DataError, in_words
from unime.runtime.hand_over import PREFETCH, check_room, pack, shared_size, unpack
from unime.runtime.interruption import leave_signals_to_parent
from unime.runtime.launcher import Process, end_with, process

T = TypeVar("T")
PATIENCE = 1800.0  # seconds


class _Packed(Dataset[Any]):
    """What a worker hands over of each batch: the packed batch, or why there is none. Raised, that
    would have the worker's traceback, and hold on to the other workers."""

    def __init__(self, make: Callable[[Any], Any], wanted: Sequence[Any], key: str) -> None:
        self.make, self.wanted, self.key = make, wanted, key

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> bytes | Exception:
        try:
            batch = _made(self.make, self.wanted[place])
        except DataError as error:
            return DataError(str(error))
        try:
            return pack(batch)
        except Exception as error:
            return _not_handed_over(error, self.key)


@contextmanager
def load_batches(
    make: Callable[[Any], T],
    wanted: Sequence[Any],
    num_workers: int,
    key: str = "num_workers",
    patience: float = PATIENCE,
) -> Iterator[Iterator[T]]:
    """What `make` makes of each of the `wanted`, in order, ahead of time in `num_workers` processes
    if there are any, which are gone when the block is left, however it is left. The first is made
    here, so that what the workers will need is known before they start.

    Args:
        key: the setting that names the number of workers, for messages.
        patience: seconds that a batch is waited for.

    Raises:
        DataError: `make` failed, in its words; or a worker was killed, or gave nothing for so long.
        ConfigError: there is no room for so many workers.
    """
    batches = _batches(make, wanted, num_workers, key, patience)
    try:
        yield batches
    except RuntimeError as error:  # torch raises it wherever the program is
        reason = " ".join(str(error).split())
        if "DataLoader timed out" in reason:
            raise DataError(
                f"no worker gave a batch for {patience:.0f} s ({key}): its rows take as long to"
                " prepare, or it could not hand it over for want of shared memory (docker run"
                " --shm-size) or file handles (ulimit -n); fewer workers need less, 0 none"
            ) from None
        if "Communication with the workers" in reason:
            raise _not_handed_over(error, key) from None
        if "DataLoader worker" in reason:
            raise _killed(reason, key) from None
        raise
    finally:
        batches.close()


def _batches(
    make: Callable[[Any], T], wanted: Sequence[Any], num_workers: int, key: str, patience: float
) -> Generator[T, None, None]:
    num_workers = min(num_workers, len(wanted) - 1)
    if num_workers <= 0:
        for one in wanted:
            yield _made(make, one)
        return
    ahead = [_made(make, wanted[0])]
    check_room(shared_size(ahead[0]), num_workers, key)
    loader = DataLoader(
        _Packed(make, wanted[1:], key),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=PREFETCH,
        timeout=patience,
        worker_init_fn=partial(_begin_worker, process(os.getpid())),
        generator=torch.Generator().manual_seed(0),  # its own: a loader's start draws a number
    )
    others = multiprocessing.active_children()
    try:
        packed = iter(loader)
    except OSError as error:
        for worker in set(multiprocessing.active_children()) - set(others):
            worker.kill()
        raise _not_handed_over(error, key) from None
    try:
        yield ahead.pop()
        for batch in packed:
            yield _unpacked(batch, key, getattr(packed, "_workers", []))
    finally:
        _end_workers(packed)


def _made(make: Callable[[Any], T], one: Any) -> T:
    try:
        return make(one)
    except Exception as error:  # whatever a library raises
        raise DataError(in_words(error)) from error


def _unpacked(batch: bytes | Exception, key: str, workers: Sequence[Any]) -> Any:
    if isinstance(batch, Exception):
        raise batch
    try:
        return unpack(batch)
    except Exception as error:
        for worker in workers:  # what one that was killed has sent cannot be fetched any more
            if worker.exitcode:
                reason = (
                    f"DataLoader worker (pid {worker.pid}) ended with status {worker.exitcode}."
                )
                raise _killed(reason, key) from None
        raise _not_handed_over(error, key) from None


def _killed(reason: str, key: str) -> DataError:
    return DataError(f"{reason} Out of memory? Fewer workers ({key}) need less")


def _not_handed_over(error: Exception, key: str) -> ConfigError:
    return ConfigError(
        f"{key}: a worker cannot start or hand a batch over ({in_words(error)}): /dev/shm is full"
        " (docker run --shm-size), or no file handle is left (ulimit -n); fewer workers need less,"
        " 0 none",
        key,
    )


def _begin_worker(parent: Process | None, _: int) -> None:
    leave_signals_to_parent()
    end_with([parent] if parent else [])


def _end_workers(batches: Any) -> None:
    """They leave signals to their parent, so Python would wait for them at its end, for ever."""
    workers = getattr(batches, "_workers", [])
    if workers:
        batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():  # after the seconds that torch gives it: in the middle of a batch
            worker.kill()
            worker.join()


def _as_it_is(batch: Any) -> Any:
    return batch


def named(what: str, error: Exception) -> DataError:
    """The error of one row or item, which `what` names."""
    return DataError(f"{what}: {in_words(error)}")
