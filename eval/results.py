"""The result of a task, which the evaluation writes and everything else reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from eval.tasks.suites import is_modality
from unime.config.reading.values import without_none
from unime.errors import DataError
from unime.runtime.files import read_json
from unime.runtime.names import is_name

LARGEST = 1e15  # of a number: seconds, queries, …
RANGES = (  # of scores
    *(("chance", 0, 1), ("mean_similarity", -1.01, 1.01), ("effective_rank", 0, LARGEST)),
    *((key, 0, LARGEST) for key in ("tied_queries", "num_items", "num_truncated", "num_encoded")),
    ("seconds", 0, LARGEST),
)
OF_A_SIZE = {  # of what Scores have
    "score": float, "ci95": list[float], "values": list[float], "metrics": dict[str, float],
}  # fmt: skip
QUOTED = 200  # characters of a value


@dataclass(frozen=True)
class Scores:
    """What a model reached on a task.

    Attributes:
        score: the mean of `values`, with its 95 % bootstrap interval `ci95`.
        values: (Q) the task's metric for each query.
        metrics: the mean of each of the 24 metrics (unime/retrieval/measures.py).
        num_candidates: the mean over queries.
        chance: the score of a random order.
        tied_queries: of how many queries different candidates with equal scores decide.
        num_items: distinct items among queries and targets, of which `num_encoded` were not yet
            in the store (in so many `seconds`), and `num_truncated` were cut to the text limit.
        mean_similarity, effective_rank: of the embeddings of the items.
        dimensions: size -> `score`, `ci95`, `values` and `metrics` of so many first coordinates,
            of the whole vector at last; None: it was not asked for.
    """

    score: float
    ci95: list[float]
    values: list[float]
    metrics: dict[str, float]
    num_queries: int
    num_candidates: float
    chance: float
    tied_queries: int
    num_items: int
    num_truncated: int
    mean_similarity: float
    effective_rank: float
    num_encoded: int
    seconds: float
    items_per_second: float | None  # None: all were in the store
    dimensions: dict[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class TaskResult:
    """A model on a task: the content of ``<task>.json``, where `scores` stand among the other keys.

    Attributes:
        num_rows: queries in the data, of which there are more if a limit cut them.
        data_fingerprint: of queries, candidates and what is right, whatever a model sees of them.
        items_fingerprint: of what the model was shown.
        settings_fingerprint: of model and settings; `vectors_fingerprint` of the code too.
        scoring_fingerprint: of the code of the evaluation.
        left_out: rows that the task does not ask about, each with its place and the reason.
        not_supported: why the model cannot do the task; None: it can.
        scores: None if it cannot.
        model, adapter: as configured; `resolved` is where the two lead.
        shown: what the model itself says of its inputs; None: nothing was ever encoded.
    """

    task: str
    meta_task: str
    distribution: str | None
    modality: str
    metric: str
    num_rows: int
    data_fingerprint: str
    items_fingerprint: str
    settings_fingerprint: str
    vectors_fingerprint: str
    scoring_fingerprint: str
    left_out: list[str]
    not_supported: str | None
    scores: Scores | None
    encoder: str
    model: str
    adapter: str | None
    resolved: dict[str, Any]
    inputs: dict[str, Any]
    shown: dict[str, Any] | None
    config: dict[str, Any]
    commit: str
    versions: dict[str, Any]
    device: str

    @property
    def limit(self) -> int | None:
        """To how many queries it was cut at most (data.limit)."""
        limit: int | None = self.config["data"]["limit"]
        return limit

    @property
    def dimensions(self) -> list[int] | None:
        """The sizes that were asked for, which results did not always have."""
        sizes: list[int] | None = self.config.get("dimensions")
        return sizes

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        found: dict[str, Any] = {}
        for key, value in vars(self).items():
            if key == "scores":
                found |= {} if value is None else vars(value)
            elif key != "not_supported" or value is not None:
                found[key] = value
        return found

    @classmethod
    def from_json(cls, path: Path) -> TaskResult:
        """Read a file that :meth:`to_json` describes.

        Raises:
            DataError: it is not the result of an evaluation; names the file, the key and its value.
        """
        found = read_json(path)
        kinds = get_type_hints(cls)
        del kinds["scores"]
        of_scores = get_type_hints(Scores) if found.get("not_supported") is None else {}
        problem = problem_of_kinds(found, kinds | of_scores)
        if problem is None:
            scores = Scores(**{key: found.get(key) for key in of_scores}) if of_scores else None
            result = cls(**{key: found.get(key) for key in kinds}, scores=scores)
            problem = _contradiction(result)
        if problem is not None:
            raise DataError(f"{path}: not a result of an evaluation: {problem}; evaluate again")
        return result


def problem_of_kinds(found: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    """What of a JSON object is not of its type: numbers are finite and not beyond all measure, and
    true is none."""
    problems = (_problem_of(key, found.get(key), kind) for key, kind in kinds.items())
    return next(filter(None, problems), None)


def _problem_of(key: str, value: Any, hint: Any) -> str | None:
    kind, optional = without_none(hint)
    base, inner = get_origin(kind) or kind, get_args(kind)
    if value is None and optional:
        return None
    if base in (int, float):
        number = isinstance(value, base | int) and not isinstance(value, bool)
        return None if number and abs(value) <= LARGEST else f"{key} is {_quoted(value)}"
    if not isinstance(value, base):
        return f"{key} is {_quoted(value)}"
    if not inner or inner[-1] is Any:
        return None
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    problems = (_problem_of(f"{key}[{place!r}]", part, inner[-1]) for place, part in parts)
    return next(filter(None, problems), None)


def _quoted(value: Any) -> str:
    return repr(value)[:QUOTED]


def _contradiction(result: TaskResult) -> str | None:
    names = {"task": is_name(result.task), "modality": is_modality(result.modality)}
    for key in (key for key, is_right in names.items() if not is_right):
        return f"{key} is {_quoted(getattr(result, key))}"
    try:
        limit = result.limit
    except (KeyError, TypeError):
        return "config.data.limit is not there"
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        return f"config.data.limit is {_quoted(limit)}"
    return None if result.scores is None else _contradiction_of_scores(result, result.scores)


def _contradiction_of_scores(result: TaskResult, scores: Scores) -> str | None:
    metric, values = result.metric, scores.values
    problem = _problem_of_numbers(metric, values, scores.metrics)
    if problem is not None:
        return problem
    for key, low, high in RANGES:
        if not low <= getattr(scores, key) <= high:
            return f"{key} is {getattr(scores, key)}"
    between = sum(value not in (0, 1) for value in values)
    if metric.startswith("hit@") and between > scores.tied_queries:
        return f"{between} values of {metric} are neither 0 nor 1, of queries without a tie"
    problem = _problem_of_mean(scores.score, values)
    if problem is not None:
        return problem
    for size, own in (scores.dimensions or {}).items():
        problem = _problem_of_size(size, own, metric, len(values))
        if problem is not None:
            return f"dimensions[{size[:QUOTED]!r}]: {problem}"
    if not len(values) == scores.num_queries <= result.num_rows:
        return f"{len(values)} values of {scores.num_queries} queries in {result.num_rows} rows"
    return None


def _problem_of_numbers(
    metric: str, values: Sequence[float], metrics: Mapping[str, float]
) -> str | None:
    if metric not in metrics:
        return f"metrics have no {metric[:QUOTED]}"
    for key, numbers in (("values", values), ("metrics", metrics.values())):
        if not numbers or not all(-1e-6 <= number <= 1 + 1e-6 for number in numbers):
            return f"{key} are not numbers in [0, 1]"
    return None


def _problem_of_mean(score: float, values: Sequence[float]) -> str | None:
    mean = math.fsum(values) / len(values)
    if not math.isclose(score, mean, abs_tol=1e-4):
        return f"score is {score}, the mean of its values {mean}"
    return None


def _problem_of_size(size: str, own: Mapping[str, Any], metric: str, count: int) -> str | None:
    if not re.fullmatch("[1-9][0-9]{0,9}", size):
        return "no size"
    problem = problem_of_kinds(own, OF_A_SIZE)
    if problem is not None:
        return problem
    values = own["values"]
    if len(values) != count:
        return f"{len(values)} values of {count} queries"
    problem = _problem_of_numbers(metric, values, own["metrics"])
    return problem or _problem_of_mean(own["score"], values)
