"""What a step does without when there is no memory for it: graphs that were kept, then half of
each chunk."""

from __future__ import annotations

from typing import Any, Protocol

from accelerate import Accelerator

from unime.config import OptimConfig
from unime.errors import RunError
from unime.runtime.distributed import gather_numbers
from unime.training.chunks import Batch, ChunkLimits
from unime.training.grad_cache import ChunkTooLarge
from unime.training.graph_memory import GIB, GraphMemory


class Collate(Protocol):
    """See collator.Collator."""

    limits: ChunkLimits

    def __call__(self, rows: list[Any], /) -> Batch: ...


def smaller(
    accelerator: Accelerator,
    optim: OptimConfig,
    collate: Collate,
    graphs: GraphMemory,
    error: ChunkTooLarge,
    where: str,
) -> str:
    """Keep half as many graphs on every rank, or where no rank kept any make chunks half as large
    (``optim.auto_chunk``): what was changed, in words.

    Args:
        where: the step and the device, for messages.

    Raises:
        RunError: neither can be; says what to try.
    """
    if not error.everywhere and graphs.kept:
        raise RunError(
            f"{where} with {graphs.kept} graphs kept; try optim.graph_memory=0 or fewer GiB"
        )
    kept = graphs.kept
    shrinks = error.everywhere and graphs.shrink()
    if error.everywhere and int(gather_numbers(accelerator, shrinks).max()):
        limit = (graphs.limit or 0.0) / GIB
        return f"with {kept} graphs kept; going on with {limit:.2f} GiB of them at most"
    limits = collate.limits
    halved = limits.halved()
    if halved is None:
        raise RunError(
            f"{where} with one item a chunk; try optim.gradient_checkpointing=true,"
            " a smaller inputs.resolution, inputs.max_tiles or inputs.max_text_tokens"
        )
    if not (optim.auto_chunk and error.everywhere):
        auto = "" if optim.auto_chunk else ", or optim.auto_chunk=true, which finds it"
        raise RunError(f"{where} with {limits}; try {halved}{auto}")
    collate.limits = halved
    return f"with {limits}; going on with {halved}"
