"""Where an evaluation's data lie, and its results, of numbers that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from eval.results import Scores, TaskResult
from eval.tasks.sources import EvalSource
from unime.config import EvalData


def result_json(
    task: str, values: Sequence[float], metric: str = "hit@1", /, **changes: Any
) -> dict[str, Any]:
    """The content of ``<task>.json``, with `changes` of its keys."""
    count, score = len(values), sum(values) / len(values)
    scores = Scores(
        score=score, ci95=[score, score], values=list(values),
        metrics={"hit@1": score, "hit@5": 0.875, "hit@10": 1.0, metric: score},
        num_queries=count, num_candidates=4.0, chance=0.5, tied_queries=0,
        num_items=2 * count, num_truncated=1, mean_similarity=0.5, effective_rank=float(count),
        num_encoded=2 * count, seconds=2.0, items_per_second=float(count),
    )  # fmt: skip
    result = TaskResult(
        task=task, meta_task="vqa", distribution="ind", modality="image", metric=metric,
        num_rows=count, data_fingerprint=f"data of {task}", items_fingerprint="i",
        settings_fingerprint="s", vectors_fingerprint="v", scoring_fingerprint="c",
        left_out=[], not_supported=None, scores=scores,
        encoder="unime", model="some/model", adapter=None, resolved={},
        inputs={"prompt": "unime", "num_frames": 8, "resolution": "native"}, shown=None,
        config={"data": {"limit": None}}, commit="c1", versions={"torch": "2.10.0"}, device="CPU",
    )  # fmt: skip
    return result.to_json() | changes


def refused(result: dict[str, Any], reason: str) -> dict[str, Any]:
    """The same of a model that cannot do the task."""
    of_scores = {field.name for field in fields(Scores)}
    kept = {key: value for key, value in result.items() if key not in of_scores}
    return kept | {"not_supported": reason}


def write_result(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result['task']}.json").write_text(json.dumps(result))


def source(root: Path, **settings: Any) -> EvalSource:
    """Rows and pictures below `root`; pictures of tables are kept in its ``cache``."""
    return EvalSource(EvalData(root=str(root), cache=str(root / "cache"), **settings))
