"""Writes small folders in MMEB's layout, with the demo's drawings as pictures."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.demo.emoji import STYLES, load_concepts, render, sample_rendering


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
    tasks: dict[str, list[dict[str, Any]]] = {
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


TOKEN = "<|image_1|>\n"
WITH_PICTURES = ("image_t2i", "image_i2i_vg")  # among which candidates are
ASK = "Represent the given image with the following question:"
NEWS = "Find a news image that matches the provided caption:"
RELATED = "Represent the given image with related text information:"
CHANGE = "Given an image, find a similar everyday image with the described changes:"
CROP = "Represent the given cropped image of the object"
PART = "Select the portion of the image that follows the language expressions:"
# Query n and candidate m: their texts in version 1; instructions and texts in MMEB-V2's rows.
BOTH_ENCODINGS = {
    "Kinds": ("image_cls", f"{TOKEN}Represent the given image for classification\n", "kind {m}",
              (f"{TOKEN}Represent the given image for classification", ""), ("", "kind {m}")),
    "Questions": ("image_qa", f"{TOKEN}{ASK} Is it {{n}}?\n", "kind {m}",
                  (f"{TOKEN}{ASK}\n", "Is it {n}?"), ("", "kind {m}")),
    "Captions": ("image_i2t", f"{TOKEN}Find an image caption describing it.\n", "It shows {m}.",
                 (f"{TOKEN}Find an image caption describing it.", ""), ("", "It shows {m}.")),
    "Dialogues": ("image_t2i", "Represent the given dialogue: Q:is it {n}\nA:yes\n\n",
                  f"{TOKEN}Represent the given image.\n",
                  ("Represent the given dialogue:", "Q:is it {n}\nA:yes"),
                  (f"{TOKEN}Represent the given image.", "")),
    "News": ("image_t2i", f"{TOKEN}{NEWS} It is {{n}}.\n", f"{TOKEN}{RELATED} News of {{m}}.\n",
             (f"{TOKEN}{NEWS}", "It is {n}."), (f"{TOKEN}{RELATED}", "News of {m}.")),
    "Changes": ("image_i2i_vg", f"{TOKEN}{CHANGE} Show {{n}} more.\n", f"{TOKEN}{CROP}",
                (f"{TOKEN}{CHANGE}", "Show {n} more."), (f"{TOKEN}{CROP}", "")),
    "Parts": ("image_i2i_vg", f'{TOKEN}{PART} "the {{n}}"\n', f'{TOKEN}{PART} "the {{m}}"\n',
              (f"{TOKEN}{PART}", '"the {n}"'), (f"{TOKEN}{PART}", '"the {m}"')),
}  # fmt: skip


@dataclass(frozen=True)
class TwiceWritten:
    """A task in both of MMEB's encodings, and how MMEB-V2 reads it."""

    parser: str
    v1: list[dict[str, Any]]
    instruct: list[dict[str, Any]]
    blank_line: bool


def tasks_in_both_encodings(root: Path, queries: int = 4) -> dict[str, TwiceWritten]:
    """Small tasks for each way in which MMEB-V2 reads rows, with pictures below ``image-tasks``.

    A row of News has two candidates more: its right picture with another caption, and the right
    candidate again. The candidates of Parts are in one picture.
    """
    for number in range(2 * queries):
        write_picture(root / f"image-tasks/Tiny/{number}.png", number)
    tasks = {}
    for name, (
        parser,
        asked,
        searched,
        (inst, text),
        (tgt_inst, tgt_text),
    ) in BOTH_ENCODINGS.items():
        v1: list[dict[str, Any]] = []
        instruct: list[dict[str, Any]] = []
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
            v1.append({"qry_text": asked.format(n=n), "tgt_text": of_v1, **paths})
            texts = {
                "qry_text": text.format(n=n),
                "tgt_text": [tgt_text.format(m=m) for m in words],
            }
            instruct.append({"qry_inst": inst, "tgt_inst": tgt_inst, **texts, **paths})
        tasks[name] = TwiceWritten(parser, v1, instruct, blank_line=name == "Dialogues")
    return tasks


def write_instruct_suite(root: Path, suite: Path, queries: int = 4) -> None:
    """MMEB's image tasks as MMEB-V2 reads them, one for each parser, below a folder of the hub
    repository's name, and the YAML that lists them."""
    lines = []
    for name, task in tasks_in_both_encodings(root, queries).items():
        write_rows(root / "ziyjiang/MMEB_Test_Instruct", name, "test", task.instruct)
        settings = f"format: mmeb_instruct, parser: {task.parser}"
        settings += ", blank_line: true" if task.blank_line else ""
        settings += ", repository: ziyjiang/MMEB_Test_Instruct"
        lines.append(f"{name}: {{meta_task: retrieval, distribution: ind, {settings}}}\n")
    suite.write_text("".join(lines))
