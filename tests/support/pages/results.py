"""Results of an evaluation as the page of the report reads them, with real pictures: three models
that get better, over tasks of text, pictures and a video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from eval.miniatures.mmeb import write_picture
from eval.report.build import build_report
from eval.result_files import Ranked, side_files, write_side_files
from eval.scoring import at_sizes, score_task, summary
from eval.tasks.base import EvalTask
from tests.support.results import result_json, write_result
from unime.config import ReportConfig
from unime.inputs.items import Item

MODELS = ("before", "after stage 1", "after stage 2")
NOISE = (1.8, 1.1, 0.8)  # of each model's targets around their queries
SIZES = (4, 16)  # of 16
NASTY = 'Which is </script><img src=x onerror="document.title=1"> "quoted" & <b>bold</b>? \u2028'
WORDS = "a red bird over the sea, drawn with a thick line on a pale ground".split()
TASKS = {  # name -> meta-task, distribution, modality, kinds of query and target
    "ImageNet-1K": ("classification", "ind", "image", "image", "text"),
    "OK-VQA": ("vqa", "ind", "image", "image+text", "text"),
    "MSCOCO_t2i": ("retrieval", "ind", "image", "text", "image"),
    "FashionIQ": ("retrieval", "ood", "image", "image+text", "image"),
    "MSR-VTT": ("video retrieval", "ood", "video", "text", "video"),
}
DESCRIBED = ("meta_task", "distribution", "modality")
PUBLISHED = {
    "title": "Generated benchmark", "note": "",
    "columns": {"IND": "image-ind", "OOD": "image-ood", "all-5": "all-5"},
    "rows": [
        {"name": "Another", "source": "its paper", "scores": {"all-5": 70.1, "IND": 75},
         "printed": {}, "tasks": {}, "note": ""},
        {"name": "A third", "source": "its card", "scores": {"all-5": 81.3},
         "printed": {}, "tasks": {}, "note": "n"},
    ],
}  # fmt: skip
Written = tuple[dict[str, Any], dict[str, Path]]


def write_results(
    root: Path, num_queries: int = 24, size: int = 48, collapsed: Sequence[str] = ()
) -> Written:
    """The report on output folders of every model below `root`, and the folders. The embeddings of
    `collapsed` models are equal, those in the samples but for rounding."""
    draw = torch.Generator().manual_seed(0)
    models = {name: root / name.replace(" ", "_") for name in MODELS}
    for name, facts in TASKS.items():
        asked, searched = (_items(root / "pictures", name, s, num_queries, size) for s in (0, 1))
        names = [f"target {number}" for number in range(num_queries)]
        relevance = [{number: 1.0} for number in range(num_queries)]
        task = EvalTask(name, num_queries, asked, searched, names, relevance)
        meaning = torch.randn(num_queries, 16, generator=draw)
        for model, noise in zip(MODELS, NOISE, strict=True):
            targets = meaning + noise * torch.randn(meaning.shape, generator=draw)
            more: dict[str, Any] = dict(zip(DESCRIBED, facts, strict=False)) | {
                "adapter": None if model == "before" else f"runs/{model}/final",
                "inputs": {"num_frames": 4, "max_tiles": None} if model == "before"
                else {"num_frames": 8, "max_tiles": 0},
                "seconds": 12.5, "commit": "0123456789abcdef",
            }  # fmt: skip
            sides = [normalize(side + 1) for side in (meaning, targets)]
            if model in collapsed:
                sides = [torch.full_like(side, 0.25) for side in sides]
                more |= {"mean_similarity": 0.9999, "effective_rank": 1.1}
            write_task(models[model], task, *sides, **more)
            if model in collapsed:
                near = {"queries": 1 + 0.01 * meaning, "targets": 1 + 0.01 * targets}
                save_file(near, side_files(models[model] / more["modality"], name)[-1])
    return report_on(models), models


def write_task(
    folder: Path,
    task: EvalTask,
    queries: Tensor,
    targets: Tensor,
    metric: str = "hit@1",
    *,
    modality: str,
    sizes: Sequence[int] = SIZES,
    **facts: Any,
) -> None:
    """All files of a task, by the code that writes them in an evaluation.

    Args:
        sizes: that it is scored at.
        facts: what else the result says.
    """
    ranking, metrics = score_task(task, queries, targets, torch.arange(len(targets)))
    scores = summary(task, ranking, metrics, metric)
    shared = ranking.ties.shared_first
    ranked = Ranked(task, queries, targets, ranking.targets, ranking.scores, shared)
    write_side_files(folder / modality, ranked, scores["metrics"])
    more = {"modality": modality, **scores, **facts}
    if sizes:
        places = torch.arange(len(targets))
        more["dimensions"] = at_sizes(task, queries, targets, places, metric, list(sizes))
    write_result(folder, result_json(task.name, scores["values"], metric, **more))


def report_on(models: dict[str, Path]) -> dict[str, Any]:
    """The report on models' folders as they are now, with published rows beside it."""
    suite = next(iter(models.values())).with_name("generated.yaml")
    tasks = {name: dict(zip(DESCRIBED, facts, strict=False)) for name, facts in TASKS.items()}
    suite.write_text(json.dumps(tasks))
    folders = {name: str(folder) for name, folder in models.items()}
    baseline = next(iter(models))
    config = ReportConfig(
        folders, str(suite), output="r.json", baseline=baseline, bootstrap_samples=100
    )
    return build_report(config) | {"published": {"generated": PUBLISHED}}


def _items(folder: Path, task: str, side: int, count: int, size: int) -> list[Item]:
    kind = TASKS[task][3 + side]
    start = 100 * list(TASKS).index(task) + 50 * side
    items = []
    for number in range(count):
        text, images, video = "", [], []
        if "text" in kind:
            words = [WORDS[(number * 5 + step * 3 + side) % len(WORDS)] for step in range(7)]
            text = f"{task} {number}: {' '.join(words)}"
        if "image" in kind:
            path = folder / f"{task}_{side}_{number}.png"
            images.append(write_picture(path, start + number, size))
        for frame in range((6 if number < 4 else 1) * (kind == "video")):
            path = folder / f"{task}_{number}/{frame}.png"
            video.append(write_picture(path, start + (frame or number), size))
        items.append(Item(text, tuple(map(str, images)), tuple(map(str, video))))
    if task == "OK-VQA" and side == 0:
        items[0] = Item(NASTY, items[0].images, instruction="Represent the given image.")
    return items
