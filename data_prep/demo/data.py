"""Write the demo's data, in MMEB's own formats, from drawings that ship in packages.

    python -m data_prep.demo.data --config configs/demo/data.yaml

    <output_dir>/
        train/<Task>/original-00000-of-00001.parquet      MMEB-train columns (in scenes
                                                          neg_*, what else is shown), answer_key
        train/images/<Task>/Train/…
        validation/<Task>/test-00000-of-00001.parquet     MMEB-eval columns; the right one first
        test/<Task>/…
        texts/train.jsonl                                 stage 1's texts
        summary.json                                      settings and counts; written last

Training, validation and test show different concepts. Deterministic; a folder that was made with
the same settings is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import MISSING
from PIL import Image

from data_prep.demo.emoji import CONCEPTS_FILE, Concept, load_concepts
from data_prep.demo.tasks import TASKS, DemoTask, Row, Side, never_trained
from data_prep.demo.texts import (
    definition_questions,
    dictionary,
    dictionary_questions,
    keyword_questions,
    training_texts,
)
from data_prep.made_once import make_once
from unime.config import load_config
from unime.config.settings import Bounds, FilePath, Positive, Settings, setting
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar

VERSION = 1
IMAGE_TOKEN = "<|image_1|>"


@dataclass
class DemoDataConfig(Settings):
    output_dir: FilePath = setting(MISSING, "the folder that is written")
    seed: int = setting(0, "of what is drawn")
    train_rows: Positive[int] = setting(1280, "of each trained task")
    test_queries: Positive[int] = setting(300, "of each task")
    validation_queries: Positive[int] = setting(120, "of each task")
    candidates: Annotated[int, Bounds("3 or more", lambda count: count > 2)] = setting(  # a scene's
        100, "of each query, where there are as many"
    )
    train_words: Positive[int] = setting(2500, "of stage 1, each with its definition")


def main(argv: list[str] | None = None) -> None:
    config = load_config(DemoDataConfig, argv)
    output_dir = Path(os.path.abspath(config.output_dir))
    facts = {"settings": asdict(config) | {"output_dir": None}, "source": _source_digest()}
    other = "holds no demo data; name another"
    found = make_once(
        output_dir, facts, other, lambda aside: {"counts": write_everything(aside, config)}
    )
    if found is not None:
        counts = found["counts"].items()
        print(f"{output_dir}: {', '.join(f'{count} {name}' for name, count in counts)}")


def write_everything(folder: Path, config: DemoDataConfig) -> dict[str, int]:
    """Write all splits below `folder`; returns how many rows and images there are."""
    concepts = load_concepts()
    pools = {
        split: [c for c in concepts if c.split == split and not c.ood_group]
        for split in ("train", "validation", "test")
    }
    ood = [concept for concept in concepts if concept.ood_group]
    sizes = {"test": config.test_queries, "validation": config.validation_queries}
    words = dictionary(sizes | {"train": config.train_words})
    counts: dict[str, int] = {}
    trained = [task for task in TASKS if task.trained]
    with progress_bar(total=len(trained) + 2 * len(TASKS), desc="drawing", unit="task") as bar:
        for task in trained:
            rows = _rows(task, pools["train"], config.train_rows, config.seed, "train")
            _write_train(folder / "train", task.name, rows)
            counts["training rows"] = counts.get("training rows", 0) + len(rows)
            bar.update()
        for split, number in sizes.items():
            for task in TASKS:
                pool = never_trained(ood, split) if task.ood_groups else pools[split]
                rows = _rows(task, pool, number, config.seed, split)
                _write_eval(folder / split, task, rows, pool, config)
                counts[f"{split} queries"] = counts.get(f"{split} queries", 0) + len(rows)
                bar.update()
    asked: set[str] = set()
    for split in sizes:
        asked |= _write_text_tasks(folder / split, pools[split], words[split], split, config)
    texts = training_texts(concepts, words, asked, config.seed)
    (folder / "texts").mkdir()
    with (folder / "texts" / "train.jsonl").open("w", encoding="utf-8") as lines:
        for text, related in texts:
            row = {"text": text, "related": related}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    counts["texts"] = len(texts)
    counts["images"] = sum(1 for _ in folder.rglob("*.png"))
    return counts


def _source_digest() -> str:
    """Changes when the code or the concepts that the data is made from do."""
    digest = hashlib.blake2b(str(VERSION).encode(), digest_size=16)
    for path in (CONCEPTS_FILE, *sorted(Path(__file__).parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _rows(task: DemoTask, pool: Sequence[Concept], count: int, seed: int, split: str) -> list[Row]:
    """`count` rows that use the pool's concepts equally often."""
    rng = random.Random(f"{seed}-{split}-{task.name}")
    usable = [c for c in pool if c.definition or task.name != "Definition_t2i"]
    order: list[Concept] = []
    while len(order) < count:
        order += rng.sample(usable, len(usable))
    return [task.make(rng, pool, concept) for concept in order[:count]]


class _Images:
    """Writes each distinct picture once and tells its path relative to the split's folder."""

    def __init__(self, root: Path, task: str, part: str) -> None:
        self.root = root
        self.pattern = f"images/{task}/{part}/{task}_image_{{}}.png"
        (root / self.pattern).parent.mkdir(parents=True)
        self.known: dict[bytes, str] = {}

    def path(self, pixels: np.ndarray | None) -> str:
        if pixels is None:
            return ""
        key = hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.pattern.format(len(self.known))
            Image.fromarray(pixels).save(self.root / self.known[key], compress_level=1)
        return self.known[key]


def _query_text(side: Side) -> str:
    """MMEB's layout: the image's token on a line of its own, then the instruction."""
    return (f"{IMAGE_TOKEN}\n" if side.pixels is not None else "") + side.text + "\n"


def _write_train(root: Path, task: str, rows: Sequence[Row]) -> None:
    images = _Images(root, task, "Train")
    table: dict[str, list[Any]] = {
        "qry": [_query_text(row.query) for row in rows],
        "qry_image_path": [images.path(row.query.pixels) for row in rows],
        "pos_text": [row.target.text for row in rows],
        "pos_image_path": [images.path(row.target.pixels) for row in rows],
        "answer_key": [row.answer_key for row in rows],
    }
    if any(row.others for row in rows):  # what else the scene shows: hard negatives for certain
        table["neg_text"] = [[side.text for side, _ in row.others] for row in rows]
        table["neg_image_path"] = [[images.path(s.pixels) for s, _ in row.others] for row in rows]
    _write_table(root / task / "original-00000-of-00001.parquet", table)


def _write_eval(
    root: Path, task: DemoTask, rows: Sequence[Row], pool: Sequence[Concept], config: DemoDataConfig
) -> None:
    """Each query with its own candidates: the right one, those of its own scene, then others'."""
    images = _Images(root, task.name, "Test")
    rng = random.Random(f"{config.seed}-candidates-{task.name}")
    if task.label_pool is not None:
        others = [(text, "", key) for text, key in task.label_pool(pool)]
    else:
        others = sorted({(r.target.text, images.path(r.target.pixels), r.answer_key) for r in rows})
    candidates = []
    for row in rows:
        own = [(row.target.text, images.path(row.target.pixels), row.answer_key)]
        own += [(side.text, images.path(side.pixels), key) for side, key in row.others]
        seen = {entry[2] for entry in own}
        rest = [entry for entry in others if entry[2] not in seen]
        rest = rng.sample(rest, min(len(rest), config.candidates - len(own)))
        candidates.append([*own, *rest])
    _write_eval_table(root / task.name, images, [row.query for row in rows], candidates)


def _write_eval_table(
    folder: Path,
    images: _Images | None,
    queries: Sequence[Side],
    candidates: Sequence[Sequence[tuple[str, str, str]]],
) -> None:
    table: dict[str, list[Any]] = {
        "qry_text": [_query_text(query) for query in queries],
        "qry_img_path": [images.path(q.pixels) if images else "" for q in queries],
        "tgt_text": [[text for text, _, _ in own] for own in candidates],
        "tgt_img_path": [[path for _, path, _ in own] for own in candidates],
    }
    _write_table(folder / "test-00000-of-00001.parquet", table)


def _write_table(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _write_text_tasks(
    root: Path,
    concepts: Sequence[Concept],
    words: Sequence[tuple[str, str]],
    split: str,
    config: DemoDataConfig,
) -> set[str]:
    """What stage 1 is for: find a thing's definition, the name of some keywords, the word of a
    dictionary's definition. Returns what is asked."""
    rng = random.Random(f"{config.seed}-{split}-texts")
    count, candidates = len(words), config.candidates
    tasks = {
        "Definition_t2t": definition_questions(concepts, count, candidates, rng),
        "Keywords_t2t": keyword_questions(concepts, count, candidates, rng),
        "Dictionary_t2t": dictionary_questions(words, candidates, rng),
    }
    for task, asked in tasks.items():
        offered = [[(text, "", text) for text in (q.answer, *q.wrong)] for q in asked]
        _write_eval_table(root / task, None, [Side(q.text) for q in asked], offered)
    return {question.text for asked in tasks.values() for question in asked}


if __name__ == "__main__":
    run_program(main)
