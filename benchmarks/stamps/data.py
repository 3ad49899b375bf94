"""Own pictures as a newcomer has them: Tux Paint's stamps, 785 transparent PNGs with captions.

    apt-get install tuxpaint-stamps-default
    python -m benchmarks.stamps.data data/stamps [/usr/share/tuxpaint/stamps]

A fifth of the captions is the test split, a fifth of the others the validation split (to choose
settings by); the rest is trained on. Writes MMEB's columns:

    <output>/train/{Stamps_i2t,Stamps_t2i}/original-00000-of-00001.parquet
    <output>/{validation,test}/{Stamps_i2t,Stamps_t2i}/test-00000-of-00001.parquet
    <output>/texts.jsonl        stage 1's texts: the training captions
    <output>/suite.yaml         the two tasks
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Stamp = tuple[str, str]  # the picture's path below the folder, and its caption
PACKAGE = "/usr/share/tuxpaint/stamps"
DESCRIBE = "<|image_1|>\nFind a caption that describes the picture.\n"
FIND = "Find a picture that shows: "
PICTURE = "<|image_1|>\nRepresent the given picture.\n"
SUITE = """\
Stamps_i2t: {meta_task: retrieval, distribution: ind}
Stamps_t2i: {meta_task: retrieval, distribution: ind}
"""


def main(words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        raise SystemExit(__doc__)
    output, root = Path(words[0]), Path(words[1] if len(words) > 1 else PACKAGE)
    splits = split(stamps(root))
    for name, rows in splits.items():
        if name == "train":
            write_training(output / name, rows)
        else:
            write_evaluation(output / name, rows)
    captions = dict.fromkeys(caption for _, caption in splits["train"])
    lines = [json.dumps({"text": caption}, ensure_ascii=False) + "\n" for caption in captions]
    (output / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    (output / "suite.yaml").write_text(SUITE, encoding="utf-8")
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in splits.items())
    print(f"{output}: {counts}; the pictures stay in {root}")


def stamps(root: Path) -> list[Stamp]:
    """Every picture with the first line of the text beside it, its English caption."""
    found = []
    for picture in sorted(root.rglob("*.png")):
        text = picture.with_suffix(".txt")
        if text.is_file():
            caption = text.read_text(encoding="utf-8").splitlines()[0].strip()
            found.append((str(picture.relative_to(root)), caption))
    if not found:
        raise SystemExit(f"{root}: no stamps; apt-get install tuxpaint-stamps-default")
    return found


def split(found: list[Stamp]) -> dict[str, list[Stamp]]:
    """By caption, so that no caption is on two sides."""
    captions = sorted({caption for _, caption in found})
    random.Random(0).shuffle(captions)
    fifth = len(captions) // 5
    test = set(captions[:fifth])
    validation = set(captions[fifth : fifth + (len(captions) - fifth) // 5])
    splits: dict[str, list[Stamp]] = {"train": [], "validation": [], "test": []}
    for stamp in found:
        held_out = "test" if stamp[1] in test else "validation"
        splits[held_out if stamp[1] in test | validation else "train"].append(stamp)
    return splits


def write_training(folder: Path, rows: list[Stamp]) -> None:
    pictures, captions = [path for path, _ in rows], [caption for _, caption in rows]
    none = [""] * len(rows)
    questions = [f"{FIND}{caption}\n" for caption in captions]
    i2t = ([DESCRIBE] * len(rows), pictures, captions, none)
    t2i = (questions, none, [PICTURE] * len(rows), pictures)
    names = ("qry", "qry_image_path", "pos_text", "pos_image_path")
    for task, columns in (("Stamps_i2t", i2t), ("Stamps_t2i", t2i)):
        write(folder / task / "original-00000-of-00001.parquet", names, columns)


def write_evaluation(folder: Path, rows: list[Stamp]) -> None:
    """Each caption is asked once: for t2i the first of its pictures is the right one and its other
    pictures are no candidates, for i2t every distinct caption is one."""
    first = {caption: path for path, caption in reversed(rows)}
    captions = list(dict.fromkeys(caption for _, caption in rows))
    names = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    own = [[right, *(c for c in captions if c != right)] for right in captions]
    none = [""] * len(rows)
    i2t = (
        [DESCRIBE] * len(rows),
        [path for path, _ in rows],
        [[caption, *(c for c in captions if c != caption)] for _, caption in rows],
        [[""] * len(captions)] * len(rows),
    )
    t2i = (
        [f"{FIND}{caption}\n" for caption in captions],
        none[: len(captions)],
        [[PICTURE] * len(captions)] * len(captions),
        [[first[caption] for caption in order] for order in own],
    )
    for task, columns in (("Stamps_i2t", i2t), ("Stamps_t2i", t2i)):
        write(folder / task / "test-00000-of-00001.parquet", names, columns)


def write(path: Path, names: tuple[str, ...], columns: tuple[list, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)


if __name__ == "__main__":
    main(sys.argv[1:])
