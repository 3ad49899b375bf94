"""What the losses cost in blocks of rows, beside every matrix N x N: CPU seconds and memory of
forward and backward.

    OMP_NUM_THREADS=1 nice python -m benchmarks.loss [16384x3584 …]

Without words, 1,024 and 4,096 pairs at 256 dimensions, in blocks and dense, three turns each, and
16,384 at 256 and 3,584 in blocks. Memory is what the process takes at most beyond the embeddings
themselves, and of this the gradients, which are as large as the embeddings.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.large import unit
from benchmarks.markdown import table
from tests.support import dense_losses
from unime import losses
from unime.config import DistillationLossConfig, HardNegativeLossConfig

TURNS = 3
DENSE_UP_TO = 4096  # 16,384 take 10 GB and more
SIZES = ("1024x256", "4096x256", "16384x256", "16384x3584")
LOSSES = ("stage 1", "stage 2", "stage 2, symmetric", "stage 2, all negatives first")


def child(kind: str, form: str, pairs: int, width: int) -> None:
    """Measure one in this process, the embeddings being there."""
    module: Any = dense_losses if form == "dense" else losses
    one, other = unit(pairs, width).requires_grad_(), unit(pairs, width, 1)
    act = distil(module, one, other) if kind == "stage 1" else instruct(module, kind, one, other)
    warm = torch.ones(64, 64, requires_grad=True)
    (warm @ warm).log_softmax(dim=1).sum().backward()
    before, started = memory(), time.process_time()
    act()
    seconds, grown = time.process_time() - started, memory() - before
    gradients = sum(side.grad.nbytes for side in (one, other) if side.grad is not None)
    print(json.dumps({"seconds": seconds, "MB": grown, "MB of gradients": gradients / 2**20}))


def distil(module: Any, student: Tensor, teacher: Tensor) -> Callable[[], None]:
    return lambda: module.distillation_loss(
        student, teacher, DistillationLossConfig()
    ).loss.backward()


def instruct(module: Any, kind: str, queries: Tensor, targets: Tensor) -> Callable[[], None]:
    """Every right answer is that of two queries."""
    keys = torch.arange(len(queries))
    labels = {"query_key": keys, "target_key": keys // 2, "is_positive": keys >= 0}
    config = HardNegativeLossConfig(symmetric=kind.endswith("symmetric"), hard_negatives_after=1)
    step = 0 if kind.endswith("first") else 1
    sides = {"query": queries, "target": targets.requires_grad_()}
    return lambda: module.instruction_loss(sides, labels, config, step).loss.backward()


def main(words: list[str]) -> list[dict[str, Any]]:
    """Print the table; the raw numbers of all turns."""
    found: list[dict[str, Any]] = []
    for size in words or SIZES:
        pairs, width = map(int, size.split("x"))
        forms = ("blocks", "dense") if pairs <= DENSE_UP_TO else ("blocks",)
        for kind in LOSSES:
            turns: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
            for _ in range(TURNS if pairs <= DENSE_UP_TO else 1):
                for form in forms:
                    turns[form].append(measured(kind, form, pairs, width))
            found += [{"loss": kind, "pairs": pairs, "width": width, "form": form, "turns": turn}
                      for form, turn in turns.items()]  # fmt: skip
            print(f"{kind}, {size}: done", file=sys.stderr, flush=True)
    print(shown(found))
    return found


def measured(kind: str, form: str, pairs: int, width: int) -> dict[str, float]:
    words = ["child", kind, form, str(pairs), str(width)]
    command = [sys.executable, "-m", "benchmarks.loss", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def shown(found: list[dict[str, Any]]) -> str:
    heads = ("loss", "pairs", "width", "form", "CPU seconds", "MiB", "of them gradients")
    rows = []
    for row in found:
        seconds, grown, gradients = (
            statistics.median(turn[name] for turn in row["turns"]) for name in row["turns"][0]
        )
        size = [f"{row['pairs']:,}", f"{row['width']:,}"]
        cost = [f"{seconds:.2f}", f"{grown:,.0f}", f"{gradients:,.0f}"]
        rows.append([row["loss"], *size, row["form"], *cost])
    return table(heads, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main(sys.argv[1:])
