"""Similarity matrices and the map of embeddings for the page of the report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from unime.collapse import collapsed
from unime.retrieval.encoding import embedding_statistics

STEPS = 32767  # of 16-bit numbers between 0 and 1, or -1 and 0
NOWHERE = -32768  # a point that a model has no embedding of
FEW = 50  # points, below which t-SNE says nothing that PCA does not


def packed(values: np.ndarray) -> str:
    """Numbers between -1 and 1 (NaN: none) as base64 of little-endian 16-bit integers."""
    steps = np.where(np.isnan(values), NOWHERE, np.round(np.clip(values, -1, 1) * STEPS))
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()


def similarity_matrix(queries: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    """Cosines of the first queries with each one's right target (the figure of the UniME paper,
    arXiv 2504.17432, that shows them before and after each stage).

    Args:
        queries, targets: (n, D)

    Returns:
        The cosines, packed, and the means on and off the diagonal. `copies` says how many cells
        off the diagonal hold a copy of the query's right target: their cosines are high, rightly.
    """
    left = torch.nn.functional.normalize(queries.double(), dim=-1)
    right = torch.nn.functional.normalize(targets.double(), dim=-1)
    cosines = (left @ right.T).numpy()  # (n, n)
    beside = ~np.eye(len(cosines), dtype=bool)
    same = (targets[:, None] == targets[None]).all(dim=-1).numpy()
    return {
        "cells": packed(cosines),
        "range": [float(cosines.min()), float(cosines.max())],
        "diagonal": float(cosines.diagonal().mean()),
        "off_diagonal": float(cosines[beside].mean()) if beside.any() else None,
        "copies": int((same & beside).sum()),
    }


def collapse_of(embeddings: np.ndarray, items: Sequence[int]) -> str | None:
    """Why the points of a map show noise and nothing else, in words; None: they do not. A map is
    drawn as large as it can be, so that noise looks like groups.

    Args:
        embeddings: (P, D); a row of NaN is a point that there is no embedding of.
        items: (P) which item each point is; each counts once.
    """
    first = np.unique(np.asarray(items), return_index=True)[1]
    points = embeddings[first]
    points = torch.from_numpy(points[~np.isnan(points).any(axis=1)])
    if not len(points):
        return None
    signs = embedding_statistics(points)
    return collapsed(signs["mean_similarity"], signs["effective_rank"], len(points))


def project(embeddings: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """Two dimensions that keep neighbours together: t-SNE from a PCA start, which makes it the same
    in every run with one seed; PCA alone where there are few points.

    Args:
        embeddings: (P, D); a row of NaN is a point that there is no embedding of.

    Returns:
        The method's name, and (P, 2) places within [-1, 1].
    """
    places = np.full((len(embeddings), 2), np.nan)
    there = ~np.isnan(embeddings).any(axis=1)
    points = embeddings[there]
    if len(points) < 3 or np.ptp(points, axis=0).max() < 1e-6:
        places[there] = 0
        return "one place: the embeddings are equal, or too few", places
    parts = min(50, *points.shape)
    reduced = PCA(parts, random_state=seed).fit_transform(points)
    method = "PCA"
    if len(points) >= FEW:
        method = "t-SNE"
        perplexity = min(30, (len(points) - 1) / 3)
        tsne = TSNE(2, init="pca", perplexity=perplexity, random_state=seed)
        reduced = tsne.fit_transform(reduced)
    found = np.zeros((len(points), 2))
    found[:, : min(2, parts)] = reduced[:, :2]
    found -= (found.max(axis=0) + found.min(axis=0)) / 2
    places[there] = found / max(np.abs(found).max(), 1e-12)
    return method, places
