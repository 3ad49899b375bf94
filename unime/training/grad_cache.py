"""One contrastive step over a batch of any size in the memory of one chunk (GradCache,
arXiv 2101.06983), with the exact gradient of the un-chunked step, on every engine.

    1. embed every chunk, the first few (graph_memory.py) with a graph that is kept, the others
       without, remembering the random state each began with
    2. compute the loss of the *global* batch and its gradient with respect to every embedding
    3. back-propagate <embedding, its gradient> of every chunk, in their order: through the graphs
       that were kept, each freed at once, then through those of the others, embedded again with
       the same random state

The numbers are the same however many graphs are kept, to the last bit. A batch that is one chunk on
every rank keeps its graph, which takes no more memory: it is embedded once.

Where a chunk alone may exchange something (DeepSpeed, FSDP2: in lockstep), ranks agree up front on
the number of chunks, and on the modules each runs: a rank with fewer repeats one of its own with a
gradient of zero, and texts beside another rank's images get a blank image. On DDP no chunk
exchanges anything: gradients, small as adapters are, are averaged once, when all ranks have theirs.

A step can take minutes, a launcher waits 30 seconds after a Ctrl-C: between two chunks the step can
be left. No parameter has moved by then, so it is as if it had not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from unime.inputs.padding import shows_images
from unime.losses import LossFunction, LossOutput
from unime.models.encoder import Encoder
from unime.runtime.distributed import gather_numbers, gather_rows
from unime.training.chunks import Batch
from unime.training.engines import in_lockstep
from unime.training.features import FeaturesOfStep
from unime.training.graph_memory import GraphMemory

Inputs = tuple[Any, ...]  # what the encoder takes for a chunk
OUT_OF_MEMORY = 1 << 10  # above all signals


class StepLeft(Exception):  # noqa: N818 (nothing went wrong)
    """A signal came: the step was left on every rank, with the random state it began with."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum


class ChunkTooLarge(Exception):  # noqa: N818 (a smaller one may do)
    """A chunk did not fit into the device's memory.

    Attributes:
        everywhere: the step was left on every rank, with the random state it began with, and can be
            taken again with smaller chunks; False: the other ranks still wait for this one.
    """

    def __init__(self, everywhere: bool) -> None:
        super().__init__("out of memory")
        self.everywhere = everywhere


def cached_backward(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFunction,
    signum: Callable[[], int] = lambda: 0,
    graphs: GraphMemory | None = None,
    last: bool = False,
    parameters: Sequence[Tensor] = (),
) -> LossOutput:
    """Back-propagate `loss_fn` of the global batch; gradients are complete on return (DeepSpeed has
    then taken its optimizer step as well, which belongs to its last backward).

    Every rank computes the loss of all rows, in which only its own rows carry a graph, so its
    embeddings' gradients are exact parts of the global gradient and have to be *summed* over ranks;
    DDP, ZeRO and FSDP average, hence the factor ``num_processes``.

    Args:
        model: the prepared encoder: the parts of one chunk to embeddings (rows of the chunk, D).
        batch: this rank's chunks and its rows of the labels, on the CPU.
        loss_fn: (embeddings by group, labels), each with the rows of all ranks, to the loss.
        signum: of a signal that reached this process, 0 if none.
        graphs: how many graphs are kept; None: none, gradient caching as published.
        last: whether the batch takes no other step: its pixels then go as they are seen.
        parameters: of the loss itself, which get their gradient too.

    Returns:
        The loss (detached) and its statistics, equal on every rank.

    Raises:
        StepLeft: a signal reached any rank.
        ChunkTooLarge: a chunk did not fit into the memory of any rank.
    """
    step = _Step(accelerator, model, signum, graphs)
    step.features = FeaturesOfStep(cast(Encoder, unwrapped(model)), batch, accelerator.device, last)
    chunks, in_one_pass = step.agree(batch)
    parts = step.embed(chunks, in_one_pass)
    embeddings = torch.cat([part.detach() for part in parts]).requires_grad_()  # (rows, D)
    labels = send_to_device(batch.labels, accelerator.device)
    output = loss_fn(
        {group: gather_rows(rows) for group, rows in batch.by_group(embeddings).items()},
        {name: gather_rows(rows) for name, rows in labels.items()},
    )
    wanted = [embeddings, *parameters]
    gradient, *of_loss = torch.autograd.grad(output.loss * accelerator.num_processes, wanted)
    for parameter, value in zip(parameters, of_loss, strict=True):  # every rank has all of it
        value = value.to(accelerator.device) / accelerator.num_processes
        parameter.grad = accelerator.reduce(value, "mean").to(parameter)
    sizes = [len(part) for part in parts]
    step.backward(chunks, parts, gradient.split(sizes))
    return LossOutput(output.loss.detach(), output.stats)


def unwrapped(model: nn.Module) -> nn.Module:
    """What DDP or DeepSpeed stands around; accelerate's own way imports DeepSpeed to see whether
    it does, where that is installed (0.3 s, 25 MB)."""
    return cast(nn.Module, getattr(model, "module", model))


class _Step:
    """What the two passes share: when to synchronise, replay random numbers, or leave."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        signum: Callable[[], int],
        graphs: GraphMemory | None = None,
    ) -> None:
        self.accelerator, self.model, self.signum = accelerator, model, signum
        self.graphs = graphs or GraphMemory()
        self.graphs.begin()
        self.features: FeaturesOfStep | None = None
        self.lockstep = in_lockstep(accelerator)
        self.out_of_memory = False
        self.began = _random_state(accelerator.device)
        self.random_states: list[tuple[Tensor, Tensor | None]] = []

    def agree(self, batch: Batch) -> tuple[list[Inputs], bool]:
        """The inputs of every forward of this rank, and whether one pass does."""
        counts = gather_numbers(  # (ranks, 2)
            self.accelerator, len(batch.chunks), sum(len(chunk) for chunk in batch.chunks)
        )
        in_one_pass = bool((counts[:, 0] == 1).all())
        if not self.lockstep:
            return [(chunk,) for chunk in batch.chunks], in_one_pass
        # a family may cut a chunk into more parts on one rank than on another (Backbone.group)
        in_one_pass &= bool((counts[:, 1] == counts[0, 1]).all())
        chunks = batch.chunks
        if not in_one_pass:
            chunks = [[part] for chunk in chunks for part in chunk]
            filler = min(chunks, key=lambda chunk: chunk[0]["attention_mask"].numel())
            chunks += [filler] * (int(counts[:, 1].max()) - len(chunks))
        mine = [[shows_images(part) for part in chunk] for chunk in chunks]
        flags = gather_numbers(self.accelerator, *(int(flag) for row in mine for flag in row))
        if self._trains_vision():
            flags[:, : len(mine[0])] = flags[:, -len(mine[-1]) :] = 1
        somewhere = iter(flags.any(dim=0).tolist())
        blank = [[next(somewhere) and not flag for flag in row] for row in mine]
        return list(zip(chunks, blank, strict=True)), in_one_pass

    def _trains_vision(self) -> bool:
        """Whether parameters train that texts alone do not reach. The first and the last chunk then
        have to: DeepSpeed 0.19.8 adds a gradient that ZeRO-3 first sees in a later chunk to that of
        the step before, and offloads none that the last chunk does not change."""
        encoder = unwrapped(self.model)
        trained = set(getattr(encoder, "trained_parts", ()))
        # a family whose rows are grouped by images (Mllama) attends to them inside of its decoder
        grouped = getattr(getattr(encoder, "backbone", None), "group", None) is not None
        return bool({"vision", "projector"} & trained) or grouped

    def embed(self, chunks: list[Inputs], in_one_pass: bool) -> list[Tensor]:
        """Pass 1: embeddings of every chunk, of the first ones with their graph; left together at
        the end."""
        parts: list[Tensor] = []
        keeps = True  # until one has no room: so the order of the backward passes stays the same
        with self._last_backward(in_one_pass):
            for inputs in chunks:
                if self._leaves():
                    break
                self.random_states.append(_random_state(self.accelerator.device))
                keeps = keeps and (in_one_pass or self.graphs.has_room(inputs[0]))
                with self._memory():
                    part = self._forward(inputs, keeps and not in_one_pass, keeps)
                    keeps = part.requires_grad
                    parts.append(part)
        self._leave_together()
        return parts

    def backward(
        self, chunks: list[Inputs], parts: list[Tensor], gradients: tuple[Tensor, ...]
    ) -> None:
        """Pass 3; empties `parts`, so that each graph is freed when it has been used."""
        last = len(chunks) - 1
        for index, (inputs, gradient) in enumerate(zip(chunks, gradients, strict=True)):
            if self._leaves():
                break
            with self._last_backward(index == last), self._memory():
                part = parts.pop(0)
                if not part.requires_grad:
                    with self._replayed(index):
                        part = self._forward(inputs)
                self.accelerator.backward((part * gradient).sum())
                del part
        self._exchange()

    def _forward(self, inputs: Inputs, measured: bool = False, graph: bool = True) -> Tensor:
        """A chunk's embeddings; only it is on the device."""
        chunk, *blank = inputs
        measuring = self.graphs.measured(chunk) if measured else nullcontext()
        if self.features is not None:  # which are kept beside the graph, and no part of it
            chunk = self.features.beside(chunk)
        with torch.set_grad_enabled(graph), measuring:
            part = self.model(send_to_device(chunk, self.accelerator.device), *blank).float()
        return part.detach() if measured and self.graphs.exceeded() else part

    def _exchange(self) -> None:
        """The mean of all ranks' gradients, where the last backward has not exchanged them; the
        gradient of what no chunk has reached is zero, as the other engines have it."""
        if self.lockstep:
            return
        self._leave_together()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.accelerator.num_processes > 1:
            gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            mean = self.accelerator.reduce(flat, "mean").split([g.numel() for g in gradients])
            for gradient, values in zip(gradients, mean, strict=True):
                gradient.copy_(values.view_as(gradient))

    def _leaves(self) -> bool:
        """Whether this rank skips what is left of a pass. In lockstep all decide together before
        each chunk; else a rank skips at once and waits for the others where they meet."""
        if self.lockstep:
            self._leave_together()
            return False  # a signal that came meanwhile waits for the next chunk
        return self.out_of_memory or bool(self.signum())

    def _leave_together(self) -> None:
        """Leave the step on every rank if something happened on any of them."""
        reason = OUT_OF_MEMORY if self.out_of_memory else self.signum()
        reason = int(gather_numbers(self.accelerator, reason).max())
        if reason:
            _set_random_state(self.began, self.accelerator.device)
            raise ChunkTooLarge(True) if reason == OUT_OF_MEMORY else StepLeft(reason)

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Take note when the device's memory is full.

        Raises:
            ChunkTooLarge: in lockstep, where the other ranks wait in the middle of a chunk.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            if self.lockstep:
                raise ChunkTooLarge(everywhere=False) from None
            self.out_of_memory = True

    @contextmanager
    def _last_backward(self, is_last: bool) -> Iterator[None]:
        """The seam for engines: is the backward in here the last one of the step, or not?

        Accelerate reads ``sync_gradients`` to set DeepSpeed's accumulation boundary; ZeRO-1 defers
        its reduction by ``no_sync``, and DDP all of it (see `_exchange`). FSDP2 reduces the
        gradients of each chunk: deferred, those of a vision tower that the last chunk does not run
        would never be.
        """
        accelerator = self.accelerator
        before = accelerator.sync_gradients
        accelerator.sync_gradients = is_last
        try:
            defers = not (accelerator.is_fsdp2 or (is_last and self.lockstep))
            with accelerator.no_sync(self.model) if defers else nullcontext():
                yield
        finally:
            accelerator.sync_gradients = before

    @contextmanager
    def _replayed(self, index: int) -> Iterator[None]:
        """Run from a chunk's first random state (dropout draws the same masks), then go on."""
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            _set_random_state(self.random_states[index], device)
            yield


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    device_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), device_state


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
