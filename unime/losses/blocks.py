"""A loss of a matrix of similarities whose memory does not grow with its rows times its columns.

Such a loss is a sum over rows, so a block of rows can be done with, its gradient too, before the
next one begins. What grows with the batch are two gradients of the embeddings' own size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MATRICES = 9  # of its shape that a loss makes of a block at once, gradient included (measured: 8)
Numbers = dict[str, Tensor]  # to be added up over all blocks
LossOfBlock = Callable[[slice, Tensor], tuple[Tensor, Numbers]]


class Similarities:
    """The products of rows (N, D) and columns (C, D), a block of rows at a time.

    Where all of them fit they are one block, computed once and differentiated by autograd.

    Args:
        memory: GiB that what a loss makes of a block may take.
    """

    def __init__(self, rows: Tensor, columns: Tensor, memory: float) -> None:
        self.rows, self.columns = rows, columns
        of_row = MATRICES * rows.element_size() * len(columns)  # bytes
        count = -(-len(rows) // max(1, int(memory * 2**30 / of_row)))
        size = -(-len(rows) // count)
        starts = range(0, len(rows), size)
        self.blocks = [slice(start, min(start + size, len(rows))) for start in starts]
        self._whole = rows @ columns.T if count == 1 else None  # (N, C)

    def total(self, loss_of_block: LossOfBlock) -> tuple[Tensor, Numbers]:
        """The sum of the losses of all blocks, with its graph, and those of their numbers, in
        double.

        Args:
            loss_of_block: (which rows, their similarities (B, C), not to be changed) to the sum of
                their losses and numbers without a graph.
        """
        sums: Numbers = defaultdict(lambda: self.rows.new_zeros((), dtype=torch.double))

        def act(place: slice, similarity: Tensor) -> Tensor:
            loss, numbers = loss_of_block(place, similarity)
            for name, number in numbers.items():
                sums[name] = sums[name] + number.double()
            return loss

        if self._whole is not None:
            return act(self.blocks[0], self._whole), sums
        rows, columns = self.rows, self.columns
        if not torch.is_grad_enabled():
            rows, columns = rows.detach(), columns.detach()
        loss: Tensor = _BlockedSum.apply(rows, columns, self.blocks, act)  # type: ignore[no-untyped-call]
        return loss, sums


class _BlockedSum(torch.autograd.Function):
    """The sum over blocks, which leaves the gradient of both sides behind."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        blocks: list[slice],
        act: Callable[[slice, Tensor], Tensor],
    ) -> Tensor:
        of_rows, of_columns = ctx.needs_input_grad[:2]
        row_gradient = torch.empty_like(rows) if of_rows else None
        column_gradient = torch.zeros_like(columns) if of_columns else None
        total = rows.new_zeros(())
        for place in blocks:
            similarity = rows[place] @ columns.T  # (B, C)
            with torch.set_grad_enabled(of_rows or of_columns):
                loss = act(place, similarity.requires_grad_(of_rows or of_columns))
            total += loss.detach()
            if not loss.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(loss, similarity)  # (B, C)
            del loss, similarity  # before the next block
            if row_gradient is not None:
                torch.mm(gradient, columns, out=row_gradient[place])
            if column_gradient is not None:
                column_gradient.addmm_(gradient.T, rows[place])
            del gradient
        ctx.gradients = row_gradient, column_gradient
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        of_rows, of_columns = ctx.gradients  # scaled in place: they are as large as a batch
        del ctx.gradients
        for gradient in (of_rows, of_columns):
            if gradient is not None:
                gradient.mul_(factor)
        return of_rows, of_columns, None, None
