"""What the space of embeddings looks like, from the samples beside the results: alignment and
uniformity (Wang and Isola, arXiv 2005.10242), and how far the two sides lie apart (the modality
gap, Liang et al., arXiv 2203.02053)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from eval.page.files import read_task_files

TEMPERATURE = 2.0  # of uniformity, as in the paper


def alignment(queries: np.ndarray, targets: np.ndarray) -> float:
    """The mean squared distance of a query and its right answer; 0: they are the same.

    Args:
        queries, targets: unit norm (N, D).
    """
    return float(np.square(queries - targets).sum(axis=1).mean())


def uniformity(rows: np.ndarray) -> float:
    """The logarithm of the mean of exp(-2 d^2) over all pairs of rows (N, D): 0 where all are the
    same, and the lower, the more evenly they are spread."""
    squared = np.clip(2 - 2 * rows @ rows.T, 0, None)  # (N, N)
    apart = squared[np.triu_indices(len(rows), 1)]
    return math.log(np.exp(-TEMPERATURE * apart).mean()) if len(apart) else 0.0


def gap(queries: np.ndarray, targets: np.ndarray) -> float:
    """The distance of the two sides' means."""
    return float(np.linalg.norm(queries.mean(axis=0) - targets.mean(axis=0)))


def space_of(folder: Path, task: str, modality: str) -> dict[str, Any]:
    """Of an evaluation's sample of a task; {}: it has none.

    Raises:
        DataError: the sample is damaged.
    """
    if not (folder / modality / f"{task}_sample.safetensors").is_file():
        return {}
    sample = read_task_files(folder, task).sample
    if sample is None:
        return {}
    queries, targets = (_unit(side.numpy()) for side in sample)
    return {
        f"alignment/{task}": alignment(queries, targets),
        f"uniformity/{task}": uniformity(np.concatenate([queries, targets])),
        f"gap/{task}": gap(queries, targets),
    }


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(norms, 1e-12)
    return unit
