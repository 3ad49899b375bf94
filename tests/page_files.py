"""Results of an evaluation as the page of the report reads them, with real pictures: three models
that get better, over tasks of text, pictures and a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.mmeb_files import write_picture

MODELS = ("before", "after stage 1", "after stage 2")
NOISE = (1.6, 0.9, 0.6)  # of each model's targets around their queries
NASTY = 'Which is </script><img src=x onerror="document.title=1"> "quoted" & <b>bold</b>? \u2028'
WORDS = "a red bird over the sea, drawn with a thick line on a pale ground".split()
TASKS = {  # name -> meta-task, distribution, modality, kinds of query and target
    "ImageNet-1K": ("classification", "ind", "image", "image", "text"),
    "OK-VQA": ("vqa", "ind", "image", "image+text", "text"),
    "MSCOCO_t2i": ("retrieval", "ind", "image", "text", "image"),
    "FashionIQ": ("retrieval", "ood", "image", "image+text", "image"),
    "MSR-VTT": ("video retrieval", "ood", "video", "text", "video"),
}


def write_results(
    root: Path, num_queries: int = 24, size: int = 48, width: int = 16
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Output folders of every model below `root`, and the report on them."""
    random = np.random.default_rng(0)
    models = {name: root / name.replace(" ", "_") for name in MODELS}
    report: dict[str, Any] = {
        "suite": "configs/suites/generated.yaml",
        "limit": num_queries,
        "num_tasks": len(TASKS),
        "chance": 0.1,
        "models": {name: {"tasks": {}, "meta_tasks": {}} for name in MODELS},
        "published": [
            {"name": "UniME (Phi-3.5-V)", "source": "arXiv 2504.17432", "scores": {"overall": 0.613}},
            {"name": "Other", "source": "its paper", "scores": {"overall": 0.7, "ind": 0.75}},
        ],
        "paired": {},
    }
    for task in TASKS:
        sides = [_items(root / "pictures", task, side, num_queries, size) for side in (0, 1)]
        meaning = random.normal(size=(num_queries, width))
        for name, noise in zip(MODELS, NOISE, strict=True):
            targets = meaning + noise * random.normal(size=meaning.shape)
            result = _write_task(models[name], name, task, sides, meaning + 1, targets + 1)
            report["models"][name]["tasks"][task] = _entry([result["score"]], num_queries) | {
                "metric": "hit@1", "num_queries": num_queries, "chance": result["chance"]
            }  # fmt: skip
    for model in report["models"].values():
        metas = {meta for meta, *_ in TASKS.values()}
        model["meta_tasks"] = {
            meta: _mean(model, [t for t in TASKS if TASKS[t][0] == meta]) for meta in sorted(metas)
        }
        model["ind"] = _mean(model, [t for t in TASKS if TASKS[t][1] == "ind"])
        model["ood"] = _mean(model, [t for t in TASKS if TASKS[t][1] == "ood"])
        model["overall"] = _mean(model, list(TASKS))
    return report, models


def _mean(model: dict[str, Any], tasks: list[str]) -> dict[str, Any]:
    return _entry([model["tasks"][task]["score"] for task in tasks], 24)


def _entry(scores: list[float], count: int) -> dict[str, Any]:
    score = float(np.mean(scores))
    reach = 1.96 * (score * (1 - score) / (count * len(scores))) ** 0.5
    return {"score": score, "ci95": [max(0, score - reach), min(1, score + reach)]}


def _items(
    folder: Path, task: str, side: int, count: int, size: int
) -> list[dict[str, Any]]:
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
                else str(write_picture(folder / f"{task}_{number}/{frame}.png", start + frame, size))
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
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / modality / f"{task}_pred.jsonl").write_text(text)
    sample = {"queries": torch.tensor(left[:50]).half(), "targets": torch.tensor(right[:50]).half()}
    save_file(sample, folder / modality / f"{task}_sample.safetensors")
    hits = [float(line["prediction"][0] in line["label"]) for line in lines]
    result = {
        "task": task, "meta_task": meta_task, "distribution": distribution, "modality": modality,
        "metric": "hit@1", "score": float(np.mean(hits)), "values": hits,
        "num_queries": len(hits), "num_rows": len(hits), "num_candidates": float(len(hits)),
        "chance": 1 / len(hits), "num_items": 2 * len(hits), "num_encoded": 2 * len(hits),
        "num_truncated": 1, "left_out": [], "seconds": 12.5, "items_per_second": 3.84,
        "encoder": "unime", "model": "Qwen/Qwen2-VL-2B-Instruct",
        "adapter": None if model == "before" else f"runs/{model}/final",
        "inputs": {"prompt": "unime", "resolution": "mid", "max_text_tokens": 512,
                   "num_frames": 4 if model == "before" else 8},
        "commit": "0123456789abcdef", "device": "CPU",
        "versions": {"torch": "2.10.0", "transformers": "5.20.0", "python": "3.11.2"},
    }  # fmt: skip
    (folder / f"{task}.json").write_text(json.dumps(result))
    return result
