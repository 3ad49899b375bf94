"""What the evaluation of a model left in its output folder, read for the page of the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from eval.results import is_number, problem_of_kinds
from unime.errors import DataError
from unime.inputs.items import Item

LISTS: dict[str, Callable[[Any], bool]] = {  # of each line of <task>_pred.jsonl: what they hold
    "prediction": lambda value: isinstance(value, str),
    "label": lambda value: isinstance(value, str),
    "scores": is_number,
    "gold": lambda value: isinstance(value, dict),
    "top": lambda value: isinstance(value, dict),
}
ITEM: dict[str, type] = {"text": str, "instruction": str, "images": list, "video": list}


class Predictions:
    """The lines of a <task>_pred.jsonl, which may be large: all are looked at once, but only
    where they begin is kept, and whether each is a hit.

    Attributes:
        hits: (Q) whether the first candidate that was found for a query is a right one, which no
            other candidate ties with.

    Raises:
        DataError: a line is not what the evaluation writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hits: list[bool] = []
        self._begins: list[int] = []
        place = 0
        with path.open("rb") as file:  # of bytes, a line ends at "\n" alone: not at U+2028
            for line in file:
                if line.strip():
                    row = self._parsed(line, len(self.hits))
                    self._begins.append(place)
                    is_right = row["prediction"][0] in row["label"]
                    self.hits.append(is_right and row.get("tied") is None)
                place += len(line)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._begins[number])
            return self._parsed(file.readline(), number)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise DataError(f"{self.path}, row {number}: not JSON: {error}") from None
        problem = _problem_of_row(row)
        if problem is not None:
            raise DataError(f"{self.path}, row {number}: {problem}")
        found: dict[str, Any] = row
        return found


def _problem_of_row(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"got {row!r}, expected an object"
    for key, fits in LISTS.items():
        values = row.get(key)
        if not isinstance(values, list):
            return f"{key} is {values!r}"
        wrong = [value for value in values if not fits(value)]
        if wrong:
            return f"{key} holds {wrong[0]!r}"
    if not is_number(row.get("gold_score")):
        return f"gold_score is {row.get('gold_score')!r}"
    if not isinstance(row.get("tied"), int | None):
        return f"tied is {row['tied']!r}"
    if not row["prediction"] or not row["gold"] or len(row["top"]) > len(row["scores"]):
        return "no prediction, no gold, or no score of one"
    items = [("query", row.get("query"))]
    items += [(key, item) for key in ("gold", "top") for item in row[key]]
    return next(filter(None, (_problem_of_item(key, item) for key, item in items)), None)


def _problem_of_item(key: str, item: Any) -> str | None:
    if not isinstance(item, dict):
        return f"{key} is {item!r}"
    for name, kind in ITEM.items():
        value = item.get(name)
        texts = kind is str or all(isinstance(path, str) for path in value or [])
        if value is not None and not (isinstance(value, kind) and texts):
            return f"{name} of {key} is {value!r}"
    return None


@dataclass
class TaskFiles:
    """One model's files of one task.

    Attributes:
        result: <task>.json, with its scores, settings and provenance.
        predictions: (Q) what was found for each query; None: the model has no such file.
        queries, targets: (n, D) the first queries and the right target of each; None: no file.
    """

    result: dict[str, Any]
    predictions: Predictions | None
    queries: torch.Tensor | None
    targets: torch.Tensor | None

    def is_hit(self, number: int) -> bool:
        """Whether the first candidate that was found for a query is right, and tied with none."""
        return self.predictions is not None and self.predictions.hits[number]


def read_task_files(folder: Path, task: str) -> TaskFiles:
    """All that an evaluation wrote about a task.

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
    problem = problem_of_kinds(result)
    if problem is not None:
        raise DataError(f"{path}: not the result of a task: {problem}")
    lines = beside / f"{task}_pred.jsonl"
    predictions = Predictions(lines) if lines.is_file() else None
    if predictions is not None and len(predictions) != result.get("num_queries"):
        raise DataError(
            f"{lines}: {len(predictions)} lines, but num_queries is"
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
