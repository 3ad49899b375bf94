"""What the evaluation of a model left in its output folder, read for the page of the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unime.items import DataError, Item

PREDICTION: dict[str, type | tuple[type, ...]] = {  # of each line of <task>_pred.jsonl
    "prediction": list,
    "label": list,
    "scores": list,
    "gold_score": (int, float),
    "query": dict,
    "gold": list,
    "top": list,
}


@dataclass
class TaskFiles:
    """One model's files of one task.

    Attributes:
        result: <task>.json, with its scores, settings and provenance.
        predictions: (Q) what was found for each query; None: the model has no such file.
        queries, targets: (n, D) the first queries and the right target of each; None: no file.
    """

    result: dict[str, Any]
    predictions: list[dict[str, Any]] | None
    queries: torch.Tensor | None
    targets: torch.Tensor | None

    def is_hit(self, number: int) -> bool:
        """Whether the first candidate that was found for a query is a right one."""
        found = (self.predictions or [])[number]
        return found["prediction"][0] in found["label"]


def read_task_files(folder: Path, task: str) -> TaskFiles:
    """
    Raises:
        DataError: a file is damaged, or does not fit to the result.
    """
    path = folder / f"{task}.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        beside = folder / str(result.get("modality", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not the result of a task: {error}") from None
    if result.get("not_supported") is not None:  # what lies beside it is another evaluation's
        return TaskFiles(result, None, None, None)
    predictions = _read_predictions(beside / f"{task}_pred.jsonl")
    if predictions is not None and len(predictions) != result.get("num_queries"):
        raise DataError(
            f"{beside / f'{task}_pred.jsonl'}: {len(predictions)} lines, but num_queries is"
            f" {result.get('num_queries')} in {path}; evaluate again"
        )
    return TaskFiles(result, predictions, *_read_sample(beside / f"{task}_sample.safetensors"))


def item_of(found: dict[str, Any]) -> Item:
    """An item as it stands in a line of predictions."""
    return Item(
        text=found.get("text") or "",
        images=tuple(found.get("images") or ()),
        video=tuple(found.get("video") or ()),
        instruction=found.get("instruction") or "",
    )


def _read_predictions(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    rows: list[dict[str, Any]] = []
    # Not splitlines(): a text may hold U+2028, which JSON does not escape.
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(filter(None, lines)):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, row {number}: not JSON: {error}") from None
        for key, kind in PREDICTION.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                value = row.get(key) if isinstance(row, dict) else row
                raise DataError(f"{path}, row {number}: {key} is {value!r}")
        if not row["prediction"] or not row["gold"] or len(row["top"]) > len(row["scores"]):
            raise DataError(f"{path}, row {number}: no prediction, no gold, or no score of one")
        rows.append(row)
    return rows


def _read_sample(path: Path) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if not path.is_file():
        return None, None
    try:
        tensors = load_file(path)
        queries, targets = tensors["queries"].float(), tensors["targets"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path}: not a sample of embeddings: {error!r}") from None
    if queries.ndim != 2 or queries.shape != targets.shape:
        shapes = f"{tuple(queries.shape)} and {tuple(targets.shape)}"
        raise DataError(f"{path}: queries and targets are {shapes}, expected (n, D) both")
    return queries, targets
