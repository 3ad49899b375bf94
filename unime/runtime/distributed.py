"""What ranks tell each other: the rows that the losses need, and a few numbers."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor

from unime.errors import ConfigError, DataError

T = TypeVar("T")
Work = Callable[[], Generator[None, None, T]]  # in steps, so that others need not wait for all
APART = 10.0  # seconds that ranks go without meeting while one of them works


def patient_accelerator(patience: timedelta) -> Accelerator:
    """Of a program that embeds: on the CPU where there is nothing else.

    Args:
        patience: how long ranks wait for the main process, while it searches and writes.
    """
    waiting = InitProcessGroupKwargs(timeout=patience)
    return Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[waiting])


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, rank 0's first: (n, …) here to (N, …) everywhere.

    The number of rows may differ from rank to rank. The rows of this rank keep their graph, those
    of the others have none: a loss of the gathered rows, computed in full on every rank, so gives
    each rank the exact gradient of its own rows. (A plain ``all_gather`` cuts every graph.)
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    world_size, rank = dist.get_world_size(), dist.get_rank()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size)]
    dist.all_gather(counts, count)
    lengths = [int(length) for length in counts]
    flags = rows.dtype == torch.bool
    sent = rows.detach().to(torch.uint8) if flags else rows.detach()
    padded = sent.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = sent
    received = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(received, padded)
    parts = [part[:length] for part, length in zip(received, lengths, strict=True)]
    if flags:
        parts = [part.bool() for part in parts]
    parts[rank] = rows
    return torch.cat(parts)


def gather_numbers(accelerator: Accelerator, *numbers: int) -> Tensor:
    """The numbers of all ranks, on the CPU (ranks, n); without a transfer where there is one."""
    mine = torch.tensor([numbers])  # (1, n)
    if accelerator.num_processes == 1:
        return mine
    return accelerator.gather(mine.to(accelerator.device)).cpu()


def together(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on every rank; if it fails on one, it fails on all, none waits for another.

    Raises:
        DataError, ConfigError: of the first rank that failed; DataError for any other failure.
    """
    failure: tuple[type[Exception], str] | None = None
    result = None
    try:
        result = work()
    except (DataError, ConfigError) as error:
        failure = type(error), str(error)
    except Exception as error:  # whatever a model or an image library raises
        traceback.print_exc(file=sys.stderr)
        failure = DataError, f"{type(error).__name__}: {error}"
    failures = [failure for failure in gather_object([failure]) if failure is not None]
    if failures:
        kind, message = failures[0]
        raise kind(message)
    return result  # type: ignore[return-value]


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work` returns on the main process, on every rank; where it fails, it fails on all."""
    done = together(accelerator, lambda: [work()] if accelerator.is_main_process else [None])
    return broadcast_object_list(done)[0]  # type: ignore[return-value, arg-type]


class Share(Protocol):
    """How work is done for all ranks: `alone`, or `on_main_in_steps` of an accelerator."""

    def __call__(self, work: Work[T], /) -> T:
        """What the work returns."""


def alone(work: Work[T]) -> T:
    """Do it here, whatever other ranks do."""
    steps = work()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(T, end.value)


def on_main_in_steps(accelerator: Accelerator, work: Work[T]) -> T:
    """As `on_main`, for work of any length: the ranks meet between its steps, so that none waits
    for another as long as a collective may take (``run.collective_timeout``)."""
    steps = work() if accelerator.is_main_process else None

    def go_on() -> list[T] | None:
        assert steps is not None
        begin = time.monotonic()
        try:
            next(steps)
            while time.monotonic() - begin < APART:
                next(steps)
        except StopIteration as end:
            return [end.value]
        return None

    while (done := on_main(accelerator, go_on)) is None:
        pass
    return done[0]


def whole(tensor: Tensor) -> Tensor:
    """A parameter (or a moment of FSDP2's) in full, without graph."""
    if isinstance(tensor, DTensor):
        return cast(DTensor, tensor.detach()).full_tensor()
    if hasattr(tensor, "ds_id"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach()
