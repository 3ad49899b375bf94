"""Losses in blocks of rows against what they were before, every matrix N x N, and their memory.

pytest tests/test_loss_blocks.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support import dense_losses
from tests.support.embedding import unit
from unime.config import DistillationLossConfig, HardNegativeLossConfig, OnShort
from unime.losses import LossOutput, distillation_loss, instruction_loss
from unime.losses.blocks import MATRICES, Similarities

ROWS = 37
THREE_BLOCKS = 13 * MATRICES * 8 * 40 / 2**30  # GiB: of 40 columns in double 13 rows
Loss = Callable[..., LossOutput]


def check_equal(blocks: Loss, dense: Loss, sides: dict[str, Tensor]) -> LossOutput:
    """Loss, statistics and the gradient of every side, to 1e-9 in double."""
    found = []
    for loss in (blocks, dense):
        leaves = {name: rows.clone().requires_grad_() for name, rows in sides.items()}
        output = loss(leaves)
        output.loss.backward()
        gradients = {name: leaf.grad for name, leaf in leaves.items()}
        found.append((output, gradients))
    (own, gradients), (expected, wanted) = found
    assert float(own.loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=1e-9)
    assert own.stats.keys() == expected.stats.keys()
    for name, number in expected.stats.items():
        value = pytest.approx(float(number), rel=1e-6, abs=1e-9, nan_ok=True)
        assert float(own.stats[name]) == value, name
    for name in sides:
        gradient, other = gradients[name], wanted[name]
        assert gradient is not None and other is not None
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)
    return own


@pytest.mark.parametrize("include_diagonal", [False, True])
@pytest.mark.parametrize("memory", [1e-9, THREE_BLOCKS, 1.0])
def test_distillation(memory: float, include_diagonal: bool) -> None:
    """One row a block, three blocks, one."""
    config = DistillationLossConfig(0.1, 0.2, include_diagonal, block_memory=memory)
    teacher = unit(ROWS, 9, seed=1)
    check_equal(
        lambda sides: distillation_loss(sides["text"], teacher, config),
        lambda sides: dense_losses.distillation_loss(sides["text"], teacher, config),
        {"text": unit(ROWS, 6)},
    )


def pairs(noise: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Queries and targets with equal ones among both, right answers that several queries share,
    and explicit negatives, some of which are right for another query."""
    generator = torch.Generator().manual_seed(0)
    target_key = torch.randint(60, (ROWS + 9,), generator=generator)
    is_positive = torch.ones(ROWS + 9, dtype=torch.bool)
    is_positive[3::5] = False
    query_key = torch.randint(25, (int(is_positive.sum()),), generator=generator)
    targets = unit(60, 6)[target_key]
    queries = unit(25, 6, seed=1)[query_key]
    queries = F.normalize(targets[is_positive] + noise * queries, dim=1)
    labels = {"query_key": query_key, "target_key": target_key, "is_positive": is_positive}
    return {"query": queries, "target": targets}, labels


@pytest.mark.parametrize("memory", [1e-9, THREE_BLOCKS, 1.0])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("k", "margin", "on_short", "after"),
    [
        (4, 0.1, OnShort.mask, 0),
        (4, -0.3, OnShort.repeat, 0),
        (50, 0.1, OnShort.repeat, 0),
        (None, 0.1, OnShort.mask, "auto"),
        (None, None, OnShort.mask, 0),
        (4, 0.1, OnShort.mask, 5),
        (4, -5.0, OnShort.mask, 0),
    ],
)
def test_instruction(
    memory: float,
    symmetric: bool,
    k: int | None,
    margin: float | None,
    on_short: OnShort,
    after: int | str,
) -> None:
    options = (0.1, k, margin, on_short, symmetric, after)
    config = HardNegativeLossConfig(*options, block_memory=memory)
    sides, labels = pairs()
    check_equal(
        lambda rows: instruction_loss(rows, labels, config, 0),
        lambda rows: dense_losses.instruction_loss(rows, labels, config, 0),
        sides,
    )


@pytest.mark.parametrize(("noise", "hard"), [(0.05, True), (4.0, False)])
def test_whether_hard_negatives_begin_is_of_the_whole_batch(noise: float, hard: bool) -> None:
    config = HardNegativeLossConfig(0.05, 4, 0.1, block_memory=THREE_BLOCKS)
    sides, labels = pairs(noise)
    output = check_equal(
        lambda rows: instruction_loss(rows, labels, config, 0),
        lambda rows: dense_losses.instruction_loss(rows, labels, config, 0),
        sides,
    )
    assert bool(output.stats["hard_negatives"]) == hard


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that anything makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 8)
        return found


@pytest.mark.parametrize("sizes", [None, [1, 2, 3]])
@pytest.mark.parametrize("stage", [1, 2])
def test_nothing_is_larger_than_a_block(stage: int, sizes: list[int] | None) -> None:
    """Forward and backward, keys and statistics; in double, so a block has `rows` x N elements, and
    where the loss is taken at four sizes a quarter of them."""
    n, rows = 800, 100
    memory = rows * MATRICES * 8 * n / 2**30
    one, other = unit(n, 4).requires_grad_(), unit(n, 4, seed=1).requires_grad_()
    assert len(Similarities(one, other, memory).blocks) == n // rows
    rows = rows if sizes is None else rows // 4
    keys = torch.arange(n) // 2
    labels = {"query_key": keys, "target_key": keys, "is_positive": torch.ones(n) > 0}
    with Largest() as largest:
        if stage == 1:
            config = DistillationLossConfig(block_memory=memory, matryoshka_dimensions=sizes)
            output = distillation_loss(one, other.detach(), config)
        else:
            negatives = HardNegativeLossConfig(
                symmetric=True, block_memory=memory, matryoshka_dimensions=sizes
            )
            output = instruction_loss({"query": one, "target": other}, labels, negatives)
        output.loss.backward()
    spread = 256 * 256  # the Gram matrix of a sample
    assert largest.elements <= max(rows * n + n, spread)


def test_without_a_gradient_none_is_computed() -> None:
    config = DistillationLossConfig(block_memory=THREE_BLOCKS)
    student = unit(ROWS, 6).requires_grad_()
    with torch.no_grad():
        output = distillation_loss(student, unit(ROWS, 9, seed=1), config)
    assert not output.loss.requires_grad
    fixed = distillation_loss(student.detach(), unit(ROWS, 9, seed=1), config)
    assert not fixed.loss.requires_grad and torch.equal(fixed.loss, output.loss)
