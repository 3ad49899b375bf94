"""Results of an evaluation as the page of the report reads them, with real pictures: three models
that get better, over tasks of text, pictures and a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from eval.miniatures.mmeb import write_picture
from tests.support.results import result_json, write_result

MODELS = ("before", "after stage 1", "after stage 2")
NOISE = (1.8, 1.1, 0.8)  # of each model's targets around their queries
NASTY = 'Which is </script><img src=x onerror="document.title=1"> "quoted" & <b>bold</b>? \u2028'
WORDS = "a red bird over the sea, drawn with a thick line on a pale ground".split()
TASKS = {  # name -> meta-task, distribution, modality, kinds of query and target
    "ImageNet-1K": ("classification", "ind", "image", "image", "text"),
    "OK-VQA": ("vqa", "ind", "image", "image+text", "text"),
    "MSCOCO_t2i": ("retrieval", "ind", "image", "text", "image"),
    "FashionIQ": ("retrieval", "ood", "image", "image+text", "image"),
    "MSR-VTT": ("video retrieval", "ood", "video", "text", "video"),
}
AVERAGES = {
    **{
        f"image/{meta}": [task for task, facts in TASKS.items() if facts[0] == meta]
        for meta in ("classification", "vqa", "retrieval")
    },
    "image-ind": [task for task, facts in TASKS.items() if facts[1] == "ind"],
    "image-ood": [task for task, facts in TASKS.items() if facts[1] == "ood"],
    "micro-5": list(TASKS),
}


def write_results(
    root: Path, num_queries: int = 24, size: int = 48, width: int = 16
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Output folders of every model below `root`, and the report on them."""
    random = np.random.default_rng(0)
    models = {name: root / name.replace(" ", "_") for name in MODELS}
    report: dict[str, Any] = {
        "suite": "configs/suites/generated.yaml", "limit": num_queries, "num_tasks": len(TASKS),
        "chance": 0.1, "overall": "micro-5", "baseline": MODELS[0],
        "averages": {
            key: {"label": f"{key} (mean)", "modality": "image"} for key in AVERAGES
        },
        "models": {name: {"tasks": {}} for name in MODELS},
        "published": {"generated": {
            "title": "Generated benchmark",
            "columns": {"IND": "image-ind", "OOD": "image-ood", "micro-5": "micro-5"},
            "rows": [
                {"name": "Another", "source": "its paper", "scores": {"micro-5": 70.1, "IND": 75}},
                {"name": "A third", "source": "its card", "scores": {"micro-5": 81.3}, "note": "n"},
            ],
        }},
    }  # fmt: skip
    values: dict[str, dict[str, list[float]]] = {name: {} for name in MODELS}
    for task in TASKS:
        sides = [_items(root / "pictures", task, side, num_queries, size) for side in (0, 1)]
        meaning = random.normal(size=(num_queries, width))
        for name, noise in zip(MODELS, NOISE, strict=True):
            targets = meaning + noise * random.normal(size=meaning.shape)
            result = _write_task(models[name], name, task, sides, meaning + 1, targets + 1)
            values[name][task] = result["values"]
            report["models"][name]["tasks"][task] = _entry(result["values"]) | {
                "metric": "hit@1", "num_queries": num_queries, "chance": result["chance"]
            }  # fmt: skip
    for name, model in report["models"].items():
        model["averages"] = {
            key: _entry([value for task in tasks for value in values[name][task]])
            for key, tasks in AVERAGES.items()
        }
    report["paired"] = {
        f"{name}|{MODELS[0]}": {
            "tasks": {
                task: _difference(values[name][task], values[MODELS[0]][task]) for task in TASKS
            }
        }
        for name in MODELS[1:]
    }
    return report, models


def collapse(report: dict[str, Any], models: dict[str, Path], name: str) -> None:
    """Make one model a collapsed one: every embedding the same but for rounding, every query tied
    with all candidates."""
    random = np.random.default_rng(1)
    for task, entry in report["models"][name]["tasks"].items():
        count = entry["num_queries"]
        entry |= {"score": 1 / count, "ci95": [1 / count, 1 / count], "chance": 1 / count}
        entry |= {"mean_similarity": 0.9999, "effective_rank": 1.1, "num_items": 2 * count}
        entry |= {"tied_queries": count}
        folder = models[name] / TASKS[task][2]
        path = folder / f"{task}_sample.safetensors"
        near = {side: nearly_equal(random, rows) for side, rows in load_file(path).items()}
        save_file(near, path)
        lines = folder / f"{task}_pred.jsonl"
        rows = [json.loads(line) for line in lines.read_text().split("\n")[:-1]]
        lines.write_text("".join(json.dumps(row | {"tied": count}) + "\n" for row in rows))
        result = models[name] / f"{task}.json"
        values = {"values": [1 / count] * count, "score": 1 / count, "tied_queries": count}
        result.write_text(json.dumps(json.loads(result.read_text()) | values))


def nearly_equal(random: np.random.Generator, rows: torch.Tensor) -> torch.Tensor:
    noise = torch.tensor(random.normal(size=rows.shape))
    return ((1 + 0.01 * noise) / rows.shape[1] ** 0.5).half()


def _entry(values: list[float]) -> dict[str, Any]:
    score = float(np.mean(values))
    reach = 1.96 * (score * (1 - score) / len(values)) ** 0.5
    return {"score": score, "ci95": [max(0, score - reach), min(1, score + reach)]}


def _difference(ours: list[float], baseline: list[float]) -> dict[str, Any]:
    differences = np.subtract(ours, baseline)
    reach = 1.96 * float(differences.std()) / len(differences) ** 0.5
    mean = float(differences.mean())
    return {"difference": mean, "ci95": [mean - reach, mean + reach]}


def _items(folder: Path, task: str, side: int, count: int, size: int) -> list[dict[str, Any]]:
    kind = TASKS[task][3 + side]
    start = 100 * list(TASKS).index(task) + 50 * side
    items = []
    for number in range(count):
        item: dict[str, Any] = {"text": "", "images": [], "video": [], "instruction": ""}
        if "text" in kind:
            words = [WORDS[(number * 5 + step * 3 + side) % len(WORDS)] for step in range(7)]
            item["text"] = f"{task} {number}: {' '.join(words)}"
        if "image" in kind:
            path = folder / f"{task}_{side}_{number}.png"
            item["images"] = [str(write_picture(path, start + number, size))]
        if kind == "video":
            item["video"] = [
                str(write_picture(folder / f"{task}_{number}/{frame}.png", start + number, size))
                if frame == 0
                else str(
                    write_picture(folder / f"{task}_{number}/{frame}.png", start + frame, size)
                )
                for frame in range(6 if number < 4 else 1)
            ]
        items.append(item)
    if task == "OK-VQA" and side == 0:
        items[0]["text"], items[0]["instruction"] = NASTY, "Represent the given image."
    return items


def _write_task(
    folder: Path,
    model: str,
    task: str,
    sides: list[list[dict[str, Any]]],
    queries: np.ndarray,
    targets: np.ndarray,
) -> dict[str, Any]:
    """<task>.json and what stands beside it, by plain loops."""
    meta_task, distribution, modality = TASKS[task][:3]
    (folder / modality).mkdir(parents=True, exist_ok=True)
    left = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    right = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    scores = left @ right.T
    lines = []
    for number, row in enumerate(scores):
        best = np.argsort(-row, kind="stable")[:10].tolist()
        lines.append({
            "prediction": [f"target {place}" for place in best],
            "label": [f"target {number}"],
            "rel_scores": [1.0],
            "scores": [float(row[place]) for place in best],
            "gold_score": float(row[number]),
            "query": sides[0][number],
            "gold": [sides[1][number]],
            "top": [sides[1][place] for place in best[:3]],
        })  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / modality / f"{task}_pred.jsonl").write_text(text)
    sample = {"queries": torch.tensor(left[:50]).half(), "targets": torch.tensor(right[:50]).half()}
    save_file(sample, folder / modality / f"{task}_sample.safetensors")
    hits = [float(line["prediction"][0] in line["label"]) for line in lines]
    result = result_json(
        task, hits, meta_task=meta_task, distribution=distribution, modality=modality,
        chance=1 / len(hits), seconds=12.5, model="Qwen/Qwen2-VL-2B-Instruct",
        adapter=None if model == "before" else f"runs/{model}/final",
        inputs={"prompt": "unime", "resolution": "mid", "max_text_tokens": 512,
                "num_frames": 4 if model == "before" else 8},
        commit="0123456789abcdef",
        versions={"torch": "2.10.0", "transformers": "5.20.0", "python": "3.11.2"},
    )  # fmt: skip
    write_result(folder, result)
    return result
