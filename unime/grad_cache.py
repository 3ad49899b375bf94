"""One contrastive step over a batch of any size in the memory of one chunk (GradCache,
arXiv 2101.06983), with the exact gradient of the un-chunked step, on one process or many.

    1. embed every chunk without a graph, remembering the random state it began with
    2. compute the loss of the *global* batch and its gradient with respect to every embedding
    3. embed every chunk again, with a graph and the same random state, and back-propagate
       <embedding, its gradient>

A batch that is one chunk on every rank takes the plain step instead: one pass that keeps its graph,
in the same memory.

A step can take minutes, a launcher waits 30 seconds after a Ctrl-C: between two chunks the step can
be left. No parameter has moved by then, so it is as if it had not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unime.collator import Batch
from unime.distributed import gather_numbers, gather_rows
from unime.losses import LossOutput

LossFunction = Callable[[dict[str, Tensor], dict[str, Tensor]], LossOutput]


class StepLeft(Exception):  # noqa: N818 (nothing went wrong)
    """A signal came: the step was left on every rank, with the random state it began with."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum


def cached_backward(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFunction,
    signum: Callable[[], int] = lambda: 0,
) -> LossOutput:
    """Back-propagate `loss_fn` of the global batch; gradients are complete on return.

    Every rank computes the loss of all rows, in which only its own rows carry a graph, so its
    embeddings' gradients are exact parts of the global gradient and have to be *summed* over ranks;
    DDP, ZeRO and FSDP average, hence the factor ``num_processes``.

    Args:
        model: the prepared encoder: one chunk to embeddings (rows of the chunk, D).
        batch: this rank's chunks and its rows of the labels.
        loss_fn: (embeddings by group, labels), each with the rows of all ranks, to the loss.
        signum: of a signal that reached this process, 0 if none. Its rank skips chunks at once and
            waits for the others where something is exchanged: in DDP only the first chunk of each
            pass exchanges anything (buffers; once, the order of the gradients), and the last
            backward, so those are never skipped.

    Returns:
        The loss (detached) and its statistics, equal on every rank.

    Raises:
        StepLeft: a signal reached any rank.
    """
    in_one_pass = bool((gather_numbers(accelerator, len(batch.chunks)) == 1).all())
    began = _random_state(accelerator.device)
    random_states: list[tuple[Tensor, Tensor | None]] = []
    parts: list[Tensor] = []
    with torch.set_grad_enabled(in_one_pass), _gradient_sync(accelerator, model, in_one_pass):
        for chunk in batch.chunks:
            if parts and signum():
                break
            random_states.append(_random_state(accelerator.device))
            parts.append(model(chunk).float())
    _leave_together(accelerator, signum(), began)

    embeddings = torch.cat(parts)  # (rows of all groups, D)
    if not in_one_pass:
        embeddings.requires_grad_()
    groups = zip(batch.groups, embeddings.split(list(batch.groups.values())), strict=True)
    output = loss_fn(
        {group: gather_rows(rows) for group, rows in groups},
        {name: gather_rows(rows) for name, rows in batch.labels.items()},
    )
    loss = output.loss * accelerator.num_processes
    if in_one_pass:
        with _gradient_sync(accelerator, model, True):
            accelerator.backward(loss)
        return LossOutput(output.loss.detach(), output.stats)

    (gradient,) = torch.autograd.grad(loss, embeddings)
    pieces = gradient.split([len(part) for part in parts])
    last = len(batch.chunks) - 1
    for index, (chunk, piece) in enumerate(zip(batch.chunks, pieces, strict=True)):
        if 0 < index < last and signum():
            continue
        with _gradient_sync(accelerator, model, index == last):
            with _replayed(random_states[index], accelerator.device):
                again = model(chunk).float()
            if index == last:
                _leave_together(accelerator, signum(), began)
            accelerator.backward((again * piece).sum())
    return LossOutput(output.loss.detach(), output.stats)


def _leave_together(
    accelerator: Accelerator, signum: int, began: tuple[Tensor, Tensor | None]
) -> None:
    """Leave the step on every rank if a signal reached any of them."""
    signum = int(gather_numbers(accelerator, signum).max())
    if signum:
        _set_random_state(began, accelerator.device)
        raise StepLeft(signum)


@contextmanager
def _gradient_sync(accelerator: Accelerator, model: nn.Module, enabled: bool) -> Iterator[None]:
    """The seam for engines: is the backward in here the last one of the step, or not?

    Accelerate reads ``sync_gradients`` to set DeepSpeed's accumulation boundary; DDP defers its
    all-reduce by ``no_sync`` (also in forwards without a graph, where it would broadcast buffers).
    """
    before = accelerator.sync_gradients
    accelerator.sync_gradients = enabled
    try:
        with nullcontext() if enabled else accelerator.no_sync(model):
            yield
    finally:
        accelerator.sync_gradients = before


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    device_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), device_state


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Run from an earlier random state (dropout draws the same masks), then go on as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _set_random_state(state, device)
        yield
