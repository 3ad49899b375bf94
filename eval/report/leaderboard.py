"""The file that MMEB's leaderboard takes, of the ``<task>_score.json`` of all 78 tasks of MMEB-V2.

It is the file that VLM2Vec's ``experiments/report_score_v2.py`` makes of the same folder, with the
page-level document sets under the keys of their corrected form. That script renames them before it
looks them up again, so that the average it prints leaves both out; ours is in averages.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from eval.remarks import is_tied
from unime.errors import DataError
from unime.retrieval.measures import METRICS
from unime.runtime.files import write_aside

KEYS = (*METRICS, "num_pred", "num_data")  # of a score file, in their order
TASKS = {
    "image": (
        *("ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A"),
        *("ImageNet-R", "ObjectNet", "Country211", "OK-VQA", "A-OKVQA", "DocVQA"),
        *("InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA", "TextVQA"),
        *("VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t"),
        *("NIGHTS", "WebQA", "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS", "MSCOCO", "RefCOCO"),
        *("RefCOCO-Matching", "Visual7W-Pointing"),
    ),
    "video": (
        *("K700", "SmthSmthV2", "HMDB51", "UCF101", "Breakfast", "MVBench", "Video-MME", "NExTQA"),
        *("EgoSchema", "ActivityNetQA", "DiDeMo", "MSR-VTT", "MSVD", "VATEX", "YouCook2"),
        *("QVHighlight", "Charades-STA", "MomentSeeker"),
    ),
    "visdoc": (
        *("ViDoRe_arxivqa", "ViDoRe_docvqa", "ViDoRe_infovqa", "ViDoRe_tabfquad", "ViDoRe_tatdqa"),
        *("ViDoRe_shiftproject", "ViDoRe_syntheticDocQA_artificial_intelligence"),
        *("ViDoRe_syntheticDocQA_energy", "ViDoRe_syntheticDocQA_government_reports"),
        *("ViDoRe_syntheticDocQA_healthcare_industry", "ViDoRe_esg_reports_human_labeled_v2"),
        *("ViDoRe_biomedical_lectures_v2_multilingual", "ViDoRe_economics_reports_v2_multilingual"),
        *("ViDoRe_esg_reports_v2_multilingual", "VisRAG_ArxivQA", "VisRAG_ChartQA"),
        *("VisRAG_MP-DocVQA", "VisRAG_SlideVQA", "VisRAG_InfoVQA", "VisRAG_PlotQA"),
        *("ViDoSeek-page", "ViDoSeek-doc", "MMLongBench-page", "MMLongBench-doc"),
    ),
}
# Queries of each task: num_data of the scores that VLM2Vec publishes (experiments/public/
# all_scores).
VIDEO_QUERIES = (
    *(1000, 1000, 1000, 1000, 433, 4000, 2700, 8564, 500, 1000),
    *(1004, 1000, 670, 4478, 3179, 1083, 727, 1602),
)
VISDOC_QUERIES = (
    *(500, 451, 494, 280, 1646, 100, 100, 100, 100, 100, 52, 640, 232, 228),
    *(816, 63, 591, 556, 718, 863, 1142, 1142, 838, 838),
)
QUERIES = {
    **dict.fromkeys(TASKS["image"], 1000),
    **dict(zip(TASKS["video"], VIDEO_QUERIES, strict=True)),
    **dict(zip(TASKS["visdoc"], VISDOC_QUERIES, strict=True)),
}
RENAMED = {name: f"{name}-fixed" for name in ("ViDoSeek-page", "MMLongBench-page")}
METADATA = (  # in the file's order; model_name alone must be given
    *("model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens"),
    *("model_release_date", "data_source", "url", "report_generated_date"),
)
NOT_EVALUATED = "DIR_N/A"  # what stands for the tasks of a modality of which there is no folder


def other_sizes(counts: Mapping[str, int]) -> list[str]:
    """Of MMEB's tasks those that have another number of queries than the benchmark, in words: their
    data are not the benchmark's."""
    return [
        f"{task} has {count} queries, the benchmark {QUERIES[task]}"
        for task, count in counts.items()
        if task in QUERIES and count != QUERIES[task]
    ]


def write_leaderboard(
    folder: Path,
    output: Path,
    metadata: dict[str, Any],
    modalities: Iterable[str] = tuple(TASKS),
    *,
    any_size: bool = False,
) -> None:
    """Write the leaderboard's file of an evaluation.

    Args:
        folder: the evaluation's output, ``<modality>/<task>_score.json``.
        metadata: what METADATA lists; null where it is not given, but for the date and
            ``data_source: Self-Reported``.
        modalities: of image, video and visdoc those that were evaluated.
        any_size: also of data that are not the benchmark's by their number of queries (tests).

    Raises:
        DataError: a task is missing, a file holds no scores or those of a part of its queries, or
            the metadata are not what the leaderboard takes.
    """
    described = _described(metadata)
    chosen = list(modalities)
    unknown = [name for name in chosen if name not in TASKS]
    if unknown or not chosen:
        raise DataError(f"leaderboard: modalities {chosen}, expected some of {', '.join(TASKS)}")
    missing = [
        f"{modality}/{task}"
        for modality in TASKS
        for task in TASKS[modality]
        if modality in chosen and not _score_file(folder, modality, task).is_file()
    ]
    if missing:
        total = sum(len(TASKS[modality]) for modality in chosen)
        raise DataError(
            f"leaderboard: {len(missing)} of {total} tasks have no scores in {folder}:"
            f" {', '.join(missing)}; evaluate them first"
        )
    metrics = {
        modality: {
            RENAMED.get(task, task): (
                _read_scores(folder, modality, task) if modality in chosen else NOT_EVALUATED
            )
            for task in tasks
        }
        for modality, tasks in TASKS.items()
    }
    counts = {
        task: int(_read_object(_score_file(folder, modality, task))["num_data"])
        for modality in chosen
        for task in TASKS[modality]
    }
    wrong = [] if any_size else other_sizes(counts)
    if wrong:
        raise DataError(
            f"leaderboard: {folder} holds scores on data that are not the benchmark's"
            f" ({len(wrong)} of {len(counts)} tasks): {'; '.join(wrong)}"
        )
    content = json.dumps({"metadata": described, "metrics": metrics}, indent=4)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_aside(output, content)


def _described(metadata: dict[str, Any]) -> dict[str, Any]:
    for key, value in metadata.items():
        if key not in METADATA or not isinstance(value, str | int | float | None):
            expected = f"one of {', '.join(METADATA)}"
            raise DataError(f"leaderboard: metadata {key}: {value!r}, expected {expected}")
    name = metadata.get("model_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"leaderboard: metadata model_name: got {name!r}, expected a name")
    known = {"data_source": "Self-Reported", "report_generated_date": datetime.now().isoformat()}
    return {key: (known | metadata).get(key) for key in METADATA}


def _score_file(folder: Path, modality: str, task: str) -> Path:
    return folder / modality / f"{task}_score.json"


def _read_scores(folder: Path, modality: str, task: str) -> dict[str, float]:
    path = _score_file(folder, modality, task)
    scores = _read_object(path)
    if sorted(scores) != sorted(KEYS):
        different = ", ".join(sorted(scores.keys() ^ set(KEYS)))
        raise DataError(f"{path}: not the scores of a task: missing or unknown: {different}")
    for key in KEYS:
        value, is_count = scores[key], key.startswith("num_")
        is_number = isinstance(value, int if is_count else int | float)
        if isinstance(value, bool) or not is_number or not math.isfinite(value):
            raise DataError(f"{path}: {key} is {value!r}, expected a number")
        if value < (1 if is_count else 0) or (value > 1 and not is_count):
            raise DataError(f"{path}: {key} is {value!r}, which it cannot be")
    _refuse_other_result(folder / f"{task}.json", scores)
    return {key: scores[key] for key in KEYS}


def _refuse_other_result(path: Path, scores: dict[str, Any]) -> None:
    """Our result says if the scores are of the first queries alone, hang on ties, or were left by
    another model: none of it is to be published."""
    if not path.is_file():
        return
    result = _read_object(path)
    settings = result.get("config")
    data = settings.get("data") if isinstance(settings, dict) else None
    limit = data.get("limit") if isinstance(data, dict) else None
    if limit is not None:
        raise DataError(
            f"{path}: evaluated on its first {limit} queries (data.limit), the leaderboard takes"
            " all"
        )
    if is_tied(result):
        raise DataError(
            f"{path}: different candidates have exactly equal scores for {result['tied_queries']}"
            f" of {result['num_queries']} queries; VLM2Vec counts these by the order of the"
            " candidates, the right one first, so the leaderboard would show what the model cannot"
            " do"
        )
    reason, metrics = result.get("not_supported"), result.get("metrics")
    differ = isinstance(metrics, dict) and any(metrics.get(key) != scores[key] for key in METRICS)
    if reason is not None or differ:
        what = f"not supported ({reason})" if reason is not None else "of other scores"
        raise DataError(
            f"{path}: {what}; the scores beside it are another evaluation's, evaluate anew in an"
            " empty folder"
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read it: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: got {type(found).__name__}, expected an object")
    return found
