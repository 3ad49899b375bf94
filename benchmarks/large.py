"""What is made and measured for docs/limits.md (limits.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from eval.report.__main__ import main as report_main
from eval.result_files import Ranked, write_side_files
from eval.tasks.base import EvalTask
from tests.support.results import result_json, write_result
from unime.config import DistillationLossConfig, HardNegativeLossConfig, PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.teacher_store import TeacherMeta, open_store, text_key, write_store
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.losses import distillation_loss, instruction_loss
from unime.retrieval.ranking import rank_targets

DIMENSION = 1536  # Qwen2-VL-2B's
STORED = 384  # a small teacher's
QUERIES = 200
SIDE = 7071  # 50 megapixels, inputs.max_image_pixels


@dataclass
class Row:
    """One thing that grows.

    Attributes:
        shown: what it is, with a place for its size.
        size: the largest that is measured.
        make: writes what is measured, of a size, into a folder.
        act: what is measured.
        memory: what its memory grows with.
    """

    shown: str
    size: int
    make: Callable[[Path, int], object]
    act: Callable[[Path, int], object]
    memory: str


def rows() -> dict[str, Row]:
    vectors = f"vectors of {DIMENSION} float32 (1.2 GB here), blocks of similarities of 256 MB"
    pixels = "pixels: 4 bytes each while they are decoded, and what the format needs"
    mapped = "keys, 16 bytes each, and texts; vectors are mapped from the disk and all looked at"
    mapped += " once, which counts here (1.5 GB) but is given back where memory is short"
    square = "pairs of queries and targets, 12 to 40 bytes each, kept for the gradient"
    return {
        "ranking": Row(f"{{:,}} candidates of each of {QUERIES} queries ranked", 200_000,
                       nothing, rank, vectors),
        "rows": Row("{:,} rows of stage 2 read and looked at, without pictures", 830_000,
                    make_rows, read_rows, "the number of rows and their texts"),
        "store": Row("a teacher's store of {:,} texts opened, and 1,024 of them read", 1_000_000,
                     make_store, read_store, mapped),
        "report": Row("report of {:,} results (78 tasks) of 1,000 queries, and its page", 780,
                      make_results, report, "values and predictions of all results"),
        **{f"picture, {name}": Row(f"a picture of {{:,}} pixels, {name}", SIDE**2,
                                   picture_maker(name), read_picture, pixels)
           for name in PICTURES},
        **{f"loss of {size}": Row("stage 2's loss and its gradient, a global batch of {:,} pairs",
                                  size, nothing, instruct, square) for size in (1024, 4096)},
        "distillation": Row("stage 1's loss and its gradient, a global batch of {:,} texts", 4096,
                            nothing, distil, "pairs of texts, some 40 bytes each"),
    }  # fmt: skip


def nothing(_: Path, __: int) -> None:
    """Made where it is measured: it is what takes the memory."""


def unit(count: int, dimension: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dimension, generator=random)
    return rows.div_(rows.norm(dim=1, keepdim=True))


def rank(_: Path, size: int) -> None:
    relevance = [{query: 1.0} for query in range(QUERIES)]
    rank_targets(unit(QUERIES, DIMENSION, 1), unit(size, DIMENSION), relevance=relevance)


def make_rows(folder: Path, size: int) -> None:
    (folder / "Task").mkdir()
    columns = {
        "qry": [f"Find the text that says the same as number {row}." for row in range(size)],
        "qry_image_path": [""] * size,
        "pos_text": [f"This is number {row}, said in other words." for row in range(size)],
        "pos_image_path": [""] * size,
    }
    pq.write_table(pa.table(columns), folder / "Task/original-00000-of-00001.parquet")


def read_rows(folder: Path, size: int) -> None:
    data = PairData(root=str(folder), sources={"Task": PairSource()}, verify_images=False)
    dataset = PairDataset.load(data, 0, None)
    assert len(dataset) == size


def texts(size: int) -> list[str]:
    return [f"text {number}" for number in range(size)]


def make_store(folder: Path, size: int) -> None:
    random = np.random.default_rng(0)
    meta = TeacherMeta("a/teacher", None, "", STORED)
    write_store(
        folder / "store", texts(size), meta, lambda of: random.normal(size=(len(of), STORED)), 4096
    )


def read_store(folder: Path, size: int) -> None:
    store = open_store(folder / "store", texts(size))
    assert len(store.embeddings([text_key(text) for text in texts(1024)])) == 1024


def tasks(size: int) -> list[str]:
    return [f"Task{number}" for number in range(max(1, size // 10))]


def make_results(folder: Path, size: int) -> None:
    """Of ten models, with all that the page shows but pictures."""
    queries = [Item(f"a question {number}") for number in range(1000)]
    relevance = [{number: 1.0} for number in range(1000)]
    names = [f"an answer {number}" for number in range(1000)]
    found = torch.arange(1000)[:, None].expand(-1, 10)
    for model in range(10):
        random = np.random.default_rng(model)
        for task in tasks(size):
            values = (random.random(1000) < 0.5).astype(float).tolist()
            result = result_json(task, values)
            write_result(folder / f"model{model}", result)
            own = EvalTask(task, 1000, queries, [Item(name) for name in names], names, relevance)
            ranked = Ranked(own, unit(1000, 64, 1), unit(1000, 64, 2), found,
                            torch.full((1000, 10), 0.5), torch.ones(1000))  # fmt: skip
            write_side_files(folder / f"model{model}/image", ranked, result["metrics"])


def report(folder: Path, size: int) -> None:
    models = {f"model {number}": str(folder / f"model{number}") for number in range(10)}
    suite = "".join(f"{task}: {{meta_task: retrieval}}\n" for task in tasks(size))
    (folder / "suite.yaml").write_text(suite)
    (folder / "report.yaml").write_text(
        f"models: {json.dumps(models)}\nsuite: {folder}/suite.yaml\n"
        f"output: {folder}/report.json\nhtml: {folder}/report.html\n"
    )
    report_main(["--config", str(folder / "report.yaml")])


PICTURES: dict[str, tuple[str, str, dict[str, Any]]] = {  # format, mode, options
    "JPEG": ("JPEG", "RGB", {}),
    "PNG of RGB": ("PNG", "RGB", {"compress_level": 1}),
    "PNG of 16 bits of grey": ("PNG", "I;16", {"compress_level": 1}),
    "WEBP with alpha": ("WEBP", "RGBA", {"lossless": True, "quality": 0, "method": 0}),
    "JPEG2000": ("JPEG2000", "RGB", {}),
}


def picture_maker(name: str) -> Callable[[Path, int], None]:
    form, mode, options = PICTURES[name]

    def make(folder: Path, size: int) -> None:
        side = int(size**0.5)
        wave = np.add.outer(np.arange(side), np.arange(side)) % 251
        image = Image.fromarray(wave.astype(np.uint8))
        image = Image.fromarray(wave.astype(np.uint16)) if mode == "I;16" else image.convert(mode)
        image.save(folder / "picture", form, **options)

    return make


def read_picture(folder: Path, size: int) -> None:
    load_image(str(folder / "picture"), size)


def instruct(_: Path, size: int) -> None:
    sides = {side: unit(size, DIMENSION, seed).requires_grad_()
             for seed, side in enumerate(("query", "target"))}  # fmt: skip
    labels = {"query_key": torch.arange(size), "target_key": torch.arange(size) + size,
              "is_positive": torch.ones(size, dtype=torch.bool)}  # fmt: skip
    instruction_loss(sides, labels, HardNegativeLossConfig()).loss.backward()


def distil(_: Path, size: int) -> None:
    student = unit(size, DIMENSION).requires_grad_()
    distillation_loss(student, unit(size, STORED, 1), DistillationLossConfig()).loss.backward()
