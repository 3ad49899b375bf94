"""The names of MMEB-V2's metrics."""

from __future__ import annotations

CUTOFFS = (1, 5, 10)
MEASURES = ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")
METRICS = tuple(f"{measure}@{k}" for measure in MEASURES for k in CUTOFFS)  # MMEB-V2's order
