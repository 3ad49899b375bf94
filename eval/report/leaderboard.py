"""The file that MMEB's leaderboard takes, of a report on all tasks of some of MMEB-V2's modalities.

It is the file that VLM2Vec's ``experiments/report_score_v2.py`` makes of an evaluation's folder,
with the page-level document sets under the keys of their corrected form. That script renames them
before it looks them up again, so that the average it prints leaves both out; ours: averages.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from eval.remarks import is_tied
from eval.report.averages import MMEB
from eval.tasks.suites import Task, load_suite
from unime.errors import ConfigError, DataError
from unime.retrieval.measures import METRICS
from unime.runtime.files import write_aside

SUITE = Path(__file__).parents[2] / "configs/suites/mmeb_v2.yaml"
RENAMED = {name: f"{name}-fixed" for name in ("ViDoSeek-page", "MMLongBench-page")}
METADATA = (  # in the file's order; model_name alone must be given
    *("model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens"),
    *("model_release_date", "data_source", "url", "report_generated_date"),
)
NOT_EVALUATED = "DIR_N/A"  # what stands for the tasks of a modality of which there is no folder


@cache
def benchmark() -> dict[str, Task]:
    """MMEB-V2's 78 tasks, in the order of the file."""
    return load_suite(str(SUITE))


def other_sizes(counts: Mapping[str, int]) -> list[str]:
    """Of MMEB's tasks those that have another number of queries than the benchmark, in words: their
    data are not the benchmark's."""
    expected = {task: benchmark()[task].num_queries for task in counts if task in benchmark()}
    return [
        f"{task} has {counts[task]} queries, the benchmark {number}"
        for task, number in expected.items()
        if counts[task] != number
    ]


def write_leaderboard(
    report: Mapping[str, Any], model: str, output: Path, metadata: Mapping[str, Any]
) -> None:
    """Write the leaderboard's file of one model of a report (report.json), on those of image, video
    and visdoc that the report is about.

    Args:
        metadata: what METADATA lists; null where it is not given, but for the date and
            ``data_source: Self-Reported``.

    Raises:
        ConfigError: the report's suite lacks tasks of MMEB.
        DataError: scores of a part of the queries, on other data than the benchmark's, that hang on
            ties, or that the model lacks; or metadata that the leaderboard does not take.
    """
    described = _described(metadata)
    found = report["models"][model]["tasks"]
    asked = {task["modality"] for task in report["tasks"].values()} & set(MMEB)
    names = [name for name, task in benchmark().items() if task.modality in asked]
    lacking = [name for name in names if name not in found]
    if lacking or not asked:
        some = f": it lacks {', '.join(lacking[:3])}, …" if lacking else ""
        raise ConfigError(f"leaderboard: {report['suite']} is not MMEB's{some}")
    if report["limit"] is not None:
        raise DataError(
            f"leaderboard: {model} was evaluated on the first {report['limit']} queries"
            " (data.limit), the leaderboard takes all"
        )
    if report["other_sizes"]:
        raise DataError(
            f"leaderboard: {model} has scores on data that are not the benchmark's"
            f" ({len(report['other_sizes'])} of {len(names)} tasks):"
            f" {'; '.join(report['other_sizes'])}"
        )
    scores = {name: _scores(f"leaderboard: {model}, {name}", found[name]) for name in names}
    metrics: dict[str, dict[str, Any]] = {modality: {} for modality in MMEB}
    for name, task in benchmark().items():
        metrics[task.modality][RENAMED.get(name, name)] = scores.get(name, NOT_EVALUATED)
    content = json.dumps({"metadata": described, "metrics": metrics}, indent=4)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_aside(output, content)


def _described(metadata: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in metadata.items():
        if key not in METADATA or not isinstance(value, str | int | float | None):
            expected = f"one of {', '.join(METADATA)}"
            raise DataError(f"leaderboard: metadata {key}: {value!r}, expected {expected}")
    name = metadata.get("model_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"leaderboard: metadata model_name: got {name!r}, expected a name")
    known = {"data_source": "Self-Reported", "report_generated_date": datetime.now().isoformat()}
    return {key: {**known, **metadata}.get(key) for key in METADATA}


def _scores(place: str, entry: Mapping[str, Any]) -> dict[str, float]:
    if entry["score"] is None:
        raise DataError(f"{place}: not supported ({entry['not_supported']})")
    if is_tied(entry):
        raise DataError(
            f"{place}: different candidates have exactly equal scores for {entry['tied_queries']}"
            f" of {entry['num_queries']} queries; VLM2Vec counts these by the order of the"
            " candidates, the right one first, so the leaderboard would show what the model cannot"
            " do"
        )
    metrics, count = entry["metrics"], entry["num_queries"]
    if metrics.keys() != set(METRICS):
        different = ", ".join(sorted(metrics.keys() ^ set(METRICS)))
        raise DataError(f"{place}: missing or unknown: {different}")
    return {key: metrics[key] for key in METRICS} | {"num_pred": count, "num_data": count}
