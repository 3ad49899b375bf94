"""What the evaluation of a model left in its output folder, read for the page of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from eval.result_files import SAMPLED, SHOWN
from eval.results import TaskResult, problem_of_kinds
from unime.errors import DataError
from unime.inputs.items import Item

LINE = {  # of <task>_pred.jsonl
    "prediction": list[str], "label": list[str], "right": list[bool] | None,
    "scores": list[float], "gold_score": float,
    "tied": int | None, "query": dict, "gold": list[dict], "top": list[dict],
}  # fmt: skip
ITEM = {
    "text": str | None, "instruction": str | None,
    "images": list[str] | None, "video": list[str] | None,
}  # fmt: skip

# bytes: twice seven items of the longest texts that are kept (result_files.py)
LONGEST_LINE = 1 << 23


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
            while line := file.readline(LONGEST_LINE + 1):
                if line.strip():
                    row = self._parsed(line, len(self.hits))
                    self._begins.append(place)
                    self.hits.append(row["right"][0] and row.get("tied") is None)
                place += len(line)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._begins[number])
            return self._parsed(file.readline(), number)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        if len(line) > LONGEST_LINE:
            raise DataError(f"{self.path}, row {number}: a line of more than {LONGEST_LINE} bytes")
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}, row {number}: not JSON: {error}") from None
        problem = _problem_of_row(row)
        if problem is not None:
            raise DataError(f"{self.path}, row {number}: {problem}")
        found: dict[str, Any] = row
        if found.get("right") is None:  # a file of before: names are all that it has
            found["right"] = [name in found["label"] for name in found["prediction"]]
        return found


def _problem_of_row(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"got {row!r:.200}, expected an object"
    problem = problem_of_kinds(row, LINE)
    if problem is not None:
        return problem
    if not row["prediction"] or not row["gold"] or len(row["top"]) > len(row["scores"]):
        return "no prediction, no gold, or no score of one"
    if row.get("right") is not None and len(row["right"]) != len(row["prediction"]):
        return f"right is of {len(row['right'])}, expected {len(row['prediction'])}"
    if max(len(row["gold"]), len(row["top"])) > SHOWN:
        return f"more than {SHOWN} of gold or top"
    items = [("query", row["query"])]
    items += [(key, item) for key in ("gold", "top") for item in row[key]]
    problems = ((key, problem_of_kinds(item, ITEM)) for key, item in items)
    return next((f"{key}: {problem}" for key, problem in problems if problem is not None), None)


@dataclass
class TaskFiles:
    """One model's files of one task.

    Attributes:
        result: <task>.json, with its scores, settings and provenance.
        predictions: (Q) what was found for each query; None: the model has no such file.
        sample: (n, D) the first queries and the right target of each; None: no file.
    """

    result: TaskResult
    predictions: Predictions | None
    sample: tuple[torch.Tensor, torch.Tensor] | None


Files = dict[str, dict[str, TaskFiles]]  # model -> task -> its files


def read_task_files(folder: Path, task: str) -> TaskFiles:
    """All that an evaluation wrote about a task.

    Raises:
        DataError: a file is damaged, or does not fit to the result.
    """
    path = folder / f"{task}.json"
    result = TaskResult.from_json(path)
    if result.scores is None:  # what lies beside it is another evaluation's
        return TaskFiles(result, None, None)
    beside = folder / result.modality
    count = result.scores.num_queries
    lines = beside / f"{task}_pred.jsonl"
    predictions = Predictions(lines) if lines.is_file() else None
    if predictions is not None and len(predictions) != count:
        raise DataError(
            f"{lines}: {len(predictions)} lines, but num_queries is {count} in {path};"
            " evaluate again"
        )
    sample = _read_sample(beside / f"{task}_sample.safetensors", min(count, SAMPLED))
    return TaskFiles(result, predictions, sample)


def read_model_files(folder: Path, tasks: Iterable[str]) -> dict[str, TaskFiles]:
    """All that an evaluation wrote about these tasks.

    Raises:
        DataError: a file is damaged, or does not fit to the others.
    """
    files = {task: read_task_files(folder, task) for task in tasks}
    widths = {found.sample[0].shape[1]: task for task, found in files.items() if found.sample}
    if len(widths) > 1:
        each = ", ".join(f"{width} in {task}" for width, task in widths.items())
        raise DataError(f"{folder}: samples of embeddings of different widths: {each}")
    return files


def item_of(found: dict[str, Any]) -> Item:
    """An item as it stands in a line of predictions."""
    return Item(
        text=found.get("text") or "",
        images=tuple(found.get("images") or ()),
        video=tuple(found.get("video") or ()),
        instruction=found.get("instruction") or "",
    )


def _read_sample(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        queries, targets = tensors["queries"].float(), tensors["targets"].float()
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: not a sample of embeddings: {error!r}") from None
    is_table = queries.ndim == 2 and queries.shape == targets.shape and 0 not in queries.shape
    if not is_table or len(queries) != count:
        shapes = f"{tuple(queries.shape)} and {tuple(targets.shape)}"
        raise DataError(f"{path}: queries and targets are {shapes}, expected ({count}, D) both")
    if not (queries.isfinite().all() and targets.isfinite().all()):
        raise DataError(f"{path}: numbers that are not finite; evaluate again")
    return queries, targets
