"""Synthetic files for the programs: texts, pairs, tasks and configurations."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from benchmarks.gpu.models import BASE, make_pairs
from benchmarks.gpu.steps import Result
from eval.miniatures.mmeb import write_picture, write_rows
from unime.data.teacher_store import TeacherMeta, write_store
from unime.inputs.items import Pair


def write_material(folder: Path, steps: int) -> None:
    """Texts with random teacher's embeddings, pairs as MMEB-train has them, two tasks as MMEB-eval
    has them, and the configurations of the three programs."""
    pairs = make_pairs(folder / "train/images/Pictures", 64, 96, 8)
    texts = [pair.target.text for pair in pairs] + [f"{pair.query.text}?" for pair in pairs]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    random_rows = np.random.default_rng(0)
    meta = TeacherMeta("random", None, "", 16)
    write_store(
        folder / "teacher", texts, meta, lambda some: random_rows.normal(size=(len(some), 16)), 999
    )
    write_train_rows(folder / "train", "Pictures", pairs)
    write_tasks(folder, pairs[:32])
    model = {"name": str(BASE), "quantization": "nf4", "precision": "float32"}
    optim = {"steps": steps, "batch_size_per_device": 16, "chunk_size": 8, "learning_rate": 1e-3}
    shared: Result = {
        "run": {"log_every": 1, "save_every": max(2, steps // 6), "trackers": []},
        "model": model,
        "optim": optim,
        "lora": {"rank": 16, "dropout": 0.05},
    }
    stage2 = shared | {"lora": shared["lora"] | {"train": ["llm", "projector", "vision"]}}
    texts_of = {"texts": [str(folder / "texts.jsonl")], "teacher": str(folder / "teacher")}
    pictures = {"root": str(folder / "train"), "sources": {"Pictures": {}}}
    tasks = {"root": str(folder / "eval"), "suite": str(folder / "suite.yaml")}
    for name, config in {
        "stage1": shared | {"data": texts_of},
        "stage2": stage2 | {"data": pictures},
        "eval": {"model": model, "data": tasks, "batch_size": 16},
    }.items():
        OmegaConf.save(OmegaConf.create(config), folder / f"{name}.yaml")


def write_train_rows(root: Path, name: str, pairs: Sequence[Pair]) -> None:
    rows = [
        {
            "qry": f"<|image_1|>\n{pair.query.text}\n",
            "qry_image_path": str(Path(pair.query.images[0]).relative_to(root)),
            "pos_text": pair.target.text,
            "pos_image_path": "",
        }
        for pair in pairs
    ]
    write_rows(root, name, "original", rows)


def write_tasks(folder: Path, pairs: Sequence[Pair]) -> None:
    """Pictures to captions, and captions to pictures."""
    size = len(pairs)
    names = [write_picture(folder / f"eval/{n}.png", n, 96).name for n in range(size)]
    order = [random.Random(n).sample([m for m in range(size) if m != n], 9) for n in range(size)]
    choices = [[n, *others] for n, others in enumerate(order)]
    shown = "<|image_1|>\nRepresent the given image.\n"
    to_text = [
        {"qry_text": shown, "qry_img_path": names[n], "tgt_img_path": [""] * 10,
         "tgt_text": [pairs[m].target.text for m in of]} for n, of in enumerate(choices)
    ]  # fmt: skip
    to_picture = [
        {"qry_text": pairs[n].target.text, "qry_img_path": "", "tgt_text": [shown] * 10,
         "tgt_img_path": [names[m] for m in of]} for n, of in enumerate(choices)
    ]  # fmt: skip
    for name, rows in (("ToText", to_text), ("ToPicture", to_picture)):
        write_rows(folder / "eval", name, "test", rows)
    line = "{meta_task: retrieval, distribution: ind}\n"
    (folder / "suite.yaml").write_text(f"ToText: {line}ToPicture: {line}")
