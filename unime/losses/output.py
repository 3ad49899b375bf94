"""What a loss gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class LossOutput:
    """A scalar loss with its graph, and scalars to log (detached)."""

    loss: Tensor
    stats: dict[str, Tensor]


LossFunction = Callable[[dict[str, Tensor], dict[str, Tensor]], LossOutput]
