"""Writes small folders in MMEB's layout, with the demo's drawings as pictures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.emoji import STYLES, load_concepts, render, sample_rendering


def write_rows(root: Path, subset: str, split: str, rows: list[dict[str, Any]]) -> Path:
    """``<root>/<subset>/<split>-00000-of-00001.parquet``."""
    path = root / subset / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_picture(path: Path, seed: int, size: int = 32) -> Path:
    """A PNG of an emoji, for every seed another one (of about 600) on some colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    concepts, style = load_concepts(), STYLES[seed % len(STYLES)]
    concept = concepts[seed * 37 % len(concepts)]  # neighbours in the list are alike
    drawing = render(concept, style, sample_rendering(random.Random(seed), concept))
    Image.fromarray(drawing).resize((size, size)).save(path)
    return path


def train_rows(root: Path, subset: str, count: int) -> list[dict[str, Any]]:
    """Rows of image and question to text, and their pictures."""
    for number in range(count):
        write_picture(root / f"images/{subset}/Train/{subset}_{number}.png", number)
    return [
        {
            "qry": f"<|image_1|>\nRepresent the given image with the question: What is {number}?\n",
            "qry_image_path": f"images/{subset}/Train/{subset}_{number}.png",
            "pos_text": f"answer {number}",
            "pos_image_path": "",
        }
        for number in range(count)
    ]


def write_eval_suite(root: Path, suite: Path, queries: int = 5) -> None:
    """Three tasks over the same pictures, one of them with another number of candidates in each
    row, and the YAML that lists them."""
    names = [f"eval_pictures/{number}.png" for number in range(queries)]
    for number, name in enumerate(names):
        write_picture(root / "eval_images" / name, number, size=32 + 16 * (number % 2))
    words = [f"thing number {number} with {'many ' * number}words" for number in range(queries)]
    order = [[n, *(m for m in range(queries) if m != n)] for n in range(queries)]
    tasks = {
        "Words_t2i": [
            {
                "qry_text": f"Find me the picture of: {words[n]}",
                "qry_img_path": "",
                "tgt_text": ["<|image_1|>\nRepresent the given image.\n"] * queries,
                "tgt_img_path": [names[m] for m in order[n]],
            }
            for n in range(queries)
        ],
        "Words_i2t": [
            {
                "qry_text": "<|image_1|>\nFind its caption.\n",
                "qry_img_path": names[n],
                "tgt_text": [words[m] for m in order[n]][: 2 + n % 3],
                "tgt_img_path": [""] * min(2 + n % 3, queries),
            }
            for n in range(queries)
        ],
        "Names": [
            {
                "qry_text": f"<|image_1|>\nIs it {number}?\n",
                "qry_img_path": names[number],
                "tgt_text": ["yes", "no", "yes"] if number % 2 else ["no", "yes", "perhaps"],
                "tgt_img_path": [None, None, None],
            }
            for number in range(queries)
        ],
    }
    for task, rows in tasks.items():
        write_rows(root, task, "test", rows)
    suite.write_text(
        "Words_t2i: {meta_task: retrieval, distribution: ind}\n"
        "Words_i2t: {meta_task: retrieval, distribution: ood}\n"
        "Names: {meta_task: vqa, distribution: ind}\n"
    )
