"""A loss at several sizes of one vector: of its first coordinates, normalised again."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from unime.config import LossConfig
from unime.losses.output import LossOutput

LossOfSize = Callable[[int, float], LossOutput]


def truncated(embeddings: Tensor, size: int) -> Tensor:
    """The first coordinates, of norm 1 again (N, size); all of them as they are."""
    if size == embeddings.shape[1]:
        return embeddings
    return F.normalize(embeddings[:, :size], dim=1)


def over_sizes(dimension: int, config: LossConfig, loss_of_size: LossOfSize) -> LossOutput:
    """The weighted mean of a loss over the sizes of ``matryoshka_dimensions`` and the whole vector
    (arXiv 2205.13147, equation 1), with the whole vector's statistics and the loss at each size.

    Args:
        dimension: of the whole vector, whose loss is taken first.
        loss_of_size: (size, GiB that it may take) to the loss; every size keeps a graph, so each
            has its part of ``block_memory``.

    Raises:
        ConfigError: a size that is larger than the whole.
    """
    shares = config.shares(dimension)
    memory = config.block_memory / len(shares)
    outputs = {size: loss_of_size(size, memory) for size in shares}
    whole = outputs[dimension]
    if len(outputs) == 1:
        return whole
    terms = [share * outputs[size].loss for size, share in shares.items()]
    at_sizes = {f"loss_{size}": output.loss.detach() for size, output in outputs.items()}
    return LossOutput(sum(terms[1:], terms[0]), whole.stats | at_sizes)
