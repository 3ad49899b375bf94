"""Writes small folders in MMEB's layout, with the demo's drawings as pictures."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.demo.emoji import STYLES, load_concepts, render, sample_rendering
from eval.tasks.mmeb_instruct import MmebInstructRows
from unime.data.mmeb_rows import EVAL_COLUMNS

Rows = list[dict[str, Any]]


def write_rows(root: Path, subset: str, split: str, rows: Rows) -> Path:
    """``<root>/<subset>/<split>-00000-of-00001.parquet``."""
    return write_parquet(root / subset / f"{split}-00000-of-00001.parquet", rows)


def write_parquet(path: Path, rows: Rows) -> Path:
    """A table; pictures (a column ``image``) are described as `datasets` does it on the hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if "image" in table.column_names:
        features = datasets.Features.from_arrow_schema(table.schema)
        features["image"] = datasets.Image()
        table = table.cast(features.arrow_schema)
    pq.write_table(table, path)
    return path


def write_json(path: Path, content: Any) -> Path:
    """A JSON value; for .jsonl a list, one entry a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = content if path.suffix == ".jsonl" else [content]
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


def picture(seed: int, size: int = 32) -> Image.Image:
    """An emoji, for every seed another one (of about 600) on some colour."""
    concepts, style = load_concepts(), STYLES[seed % len(STYLES)]
    concept = concepts[seed * 37 % len(concepts)]  # neighbours in the list are alike
    drawing = render(concept, style, sample_rendering(random.Random(seed), concept))
    return Image.fromarray(drawing).resize((size, size))


def write_picture(path: Path, seed: int, size: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)
    return path


def picture_bytes(seed: int) -> bytes:
    """A picture's file, as it is in a table's cell."""
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


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
    shown = "<|image_1|>\nRepresent the given image.\n"
    counts = [min(2 + n % 3, queries) for n in range(queries)]  # of candidates
    tasks: dict[str, list[tuple[Any, ...]]] = {
        "Words_t2i": [
            (f"Find me the picture of: {words[n]}", "", [shown] * queries, [names[m] for m in own])
            for n, own in enumerate(order)
        ],
        "Words_i2t": [
            ("<|image_1|>\nFind its caption.\n", names[n], [words[m] for m in own[:count]],
             [""] * count)
            for n, (own, count) in enumerate(zip(order, counts, strict=True))
        ],
        "Names": [
            (f"<|image_1|>\nIs it {n}?\n", names[n],
             ["yes", "no", "yes"] if n % 2 else ["no", "yes", "perhaps"], [None] * 3)
            for n in range(queries)
        ],
    }  # fmt: skip
    for task, rows in tasks.items():
        named = [dict(zip(EVAL_COLUMNS, row, strict=True)) for row in rows]
        write_rows(root, task, "test", named)
    suite.write_text(
        "Words_t2i: {meta_task: retrieval, distribution: ind}\n"
        "Words_i2t: {meta_task: retrieval, distribution: ood}\n"
        "Names: {meta_task: vqa, distribution: ind}\n"
    )


TOKEN = "<|image_1|>\n"
WITH_PICTURES = ("image_t2i", "image_i2i_vg")  # among which candidates are
CLASS = f"{TOKEN}Represent the given image for classification"
ASK = f"{TOKEN}Represent the given image with the following question:"
CAPTION = f"{TOKEN}Find an image caption describing it."
DIALOGUE = "Represent the given dialogue:"
SHOWN = f"{TOKEN}Represent the given image."
NEWS = f"{TOKEN}Find a news image that matches the provided caption:"
RELATED = f"{TOKEN}Represent the given image with related text information:"
CHANGE = f"{TOKEN}Given an image, find a similar everyday image with the described changes:"
CROP = f"{TOKEN}Represent the given cropped image of the object"
PART = f"{TOKEN}Select the portion of the image that follows the language expressions:"
# Query n and candidate m: their texts in version 1; instructions and texts in MMEB-V2's rows.
BOTH_ENCODINGS = {
    "Kinds": ("image_cls", (f"{CLASS}\n", "kind {m}"), (CLASS, "", "", "kind {m}")),
    "Questions": ("image_qa", (f"{ASK} Is it {{n}}?\n", "kind {m}"),
                  (f"{ASK}\n", "Is it {n}?", "", "kind {m}")),
    "Captions": ("image_i2t", (f"{CAPTION}\n", "It shows {m}."),
                 (CAPTION, "", "", "It shows {m}.")),
    "Dialogues": ("image_t2i", (f"{DIALOGUE} Q:is it {{n}}\nA:yes\n\n", f"{SHOWN}\n"),
                  (DIALOGUE, "Q:is it {n}\nA:yes", SHOWN, "")),
    "News": ("image_t2i", (f"{NEWS} It is {{n}}.\n", f"{RELATED} News of {{m}}.\n"),
             (NEWS, "It is {n}.", RELATED, "News of {m}.")),
    "Changes": ("image_i2i_vg", (f"{CHANGE} Show {{n}} more.\n", CROP),
                (CHANGE, "Show {n} more.", CROP, "")),
    "Parts": ("image_i2i_vg", (f'{PART} "the {{n}}"\n', f'{PART} "the {{m}}"\n'),
              (PART, '"the {n}"', PART, '"the {m}"')),
}  # fmt: skip


@dataclass(frozen=True)
class TwiceWritten:
    """A task in both of MMEB's encodings, and how MMEB-V2's rows are read."""

    reads: MmebInstructRows
    v1: Rows
    instruct: Rows


def tasks_in_both_encodings(root: Path, queries: int = 4) -> dict[str, TwiceWritten]:
    """Small tasks for each way in which MMEB-V2 reads rows, with pictures below ``image-tasks``.

    A row of News has two candidates more: its right picture with another caption, and the right
    candidate again. The candidates of Parts are in one picture.
    """
    for number in range(2 * queries):
        write_picture(root / f"image-tasks/Tiny/{number}.png", number)
    tasks = {}
    for name, (parser, (asked, searched), templates) in BOTH_ENCODINGS.items():
        inst, text, tgt_inst, tgt_text = templates
        reads = MmebInstructRows(parser=parser, blank_line=name == "Dialogues")
        twice = tasks[name] = TwiceWritten(reads, [], [])
        for n in range(queries):
            own = [n, *(m for m in range(queries) if m != n)]
            shown = [queries if name == "Parts" else queries + m for m in own]
            words: list[object] = [*own]
            if name == "News":
                words, shown = [*own, "others", n], [*shown, shown[0], shown[0]]
            pictures = [f"Tiny/{m}.png" if parser in WITH_PICTURES else "" for m in shown]
            paths = {"qry_img_path": "" if parser == "image_t2i" else f"Tiny/{n}.png",
                     "tgt_img_path": pictures}  # fmt: skip
            of_v1 = [searched.format(m=m) for m in words]
            twice.v1.append({"qry_text": asked.format(n=n), "tgt_text": of_v1, **paths})
            captions = [tgt_text.format(m=m) for m in words]
            texts = {"qry_text": text.format(n=n), "tgt_text": captions}
            twice.instruct.append({"qry_inst": inst, "tgt_inst": tgt_inst, **texts, **paths})
    return tasks
