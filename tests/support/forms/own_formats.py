"""Miniatures of public forms of data, each in the layout and with the quirks that it is published
with; the readers' heads name the sources."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Rows = list[dict[str, Any]]
COUNT = 10  # rows of each
HELD = 5  # rows that the saved set holds out
ASK = "<|image_1|>\nRepresent the given image with the following question:"
SHOWN = "<|image_1|>\nRepresent the given image.\n"


def picture_bytes(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(held, "PNG")
    return held.getvalue()


def draw(folder: Path, count: int = 2 * COUNT) -> None:
    """`0.png`, `1.png`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture_bytes(number))


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def ms_swift_rows(folder: Path) -> Rows:
    """With paths that are relative and absolute, tags in the middle, a system message, a label."""
    said = {"role": "system", "content": "Find its like."}
    return [
        {"messages": [user("sentence 0")], "positive_messages": [[user("sentence two")]]},
        {"messages": [user("<image>")], "images": ["pictures/1.png"],
         "positive_messages": [[user("sentence 1")]]},
        {"messages": [user("<image>sentence 2")], "images": [str(folder / "pictures/2.png")],
         "positive_messages": [[user("<image>another 2")]],
         "positive_images": [["pictures/3.png"]],
         "negative_messages": [[user("<image>\n<image>wrong")], [user("or <image> that")]],
         "negative_images": [["pictures/4.png", "pictures/5.png"], ["pictures/6.png"]]},
        {"messages": [said, user("with a word")], "positive_messages": [[said, user("and 3")]],
         "negative_messages": [[user("not 3")]], "label": 1.0},
        *({"messages": [user(f"number {n}")], "images": None,
           "positive_messages": [[user("<image>")]], "positive_images": [[f"pictures/{n}.png"]]}
          for n in range(7, 7 + COUNT - 4)),
    ]  # fmt: skip


def ms_swift(folder: Path) -> Path:
    draw(folder / "pictures")
    return write_lines(folder / "train.jsonl", ms_swift_rows(folder))


def lco_rows() -> Rows:
    """Every kind of side."""
    sides = [("", "a text {}"), ("data/pictures/{}.png", ""), ("data/pictures/{}.png", "both {}")]

    def side(kind: int, number: int) -> dict[str, str]:
        path, text = sides[kind % 3]
        return {"image_path": path.format(number), "text": text.format(number)}

    return [
        {"anchor": side(n, n), "positive": side(n + 1, n + COUNT), "negative": side(n + 2, 2 * n)}
        for n in range(COUNT)
    ]


def lco(folder: Path) -> Path:
    """Below data/, beside which the script is, to which paths are relative."""
    draw(folder / "data/pictures")
    return write_lines(folder / "data/mine.jsonl", lco_rows())


def nemo_content() -> dict[str, Any]:
    """Ids as objects and alone, as numbers and as texts; several positives; a field more."""
    data = [
        {"question_id": f"q_{n}", "question": f"What is {n}?", "corpus_id": "wiki",
         "pos_doc": [{"id": f"d_{n}", "score": 0.9}], "neg_doc": [{"id": f"d_{n + 1}"}, n]}
        for n in range(COUNT)
    ]  # fmt: skip
    data[1]["pos_doc"] = [{"id": "d_1"}, "d_7"]
    return {"corpus": [{"path": "corpora/wiki"}], "data": data}


def nemo(folder: Path) -> Path:
    corpus = folder / "corpora/wiki"
    draw(corpus / "pictures")
    (corpus / "merlin_metadata.json").write_text(json.dumps(
        {"class": "TextQADataset", "corpus_id": "wiki", "query_instruction": "Answer:",
         "passage_instruction": ""}))  # fmt: skip
    documents = [
        {"id": f"d_{n}", "text": "" if n % 4 == 3 else f"It is {n}.",
         "image": None if n % 2 == 0 else {"bytes": picture_bytes(n), "path": None}
         if n % 4 == 1 else {"bytes": None, "path": f"pictures/{n}.png"}}
        for n in range(COUNT + 1)
    ]  # fmt: skip
    documents += [{"id": str(n), "text": f"Number {n}.", "image": None} for n in range(COUNT)]
    pq.write_table(pa.Table.from_pylist(documents), corpus / "train-00000-of-00001.parquet")
    (folder / "train.json").write_text(json.dumps(nemo_content(), indent=2))
    return folder / "train.json"


def unime_v2_rows() -> Rows:
    """Of two tasks; of one the answers are texts, of the other pictures."""
    scores = {"query_pos_scores": 0.7, "hard_negatives_scores": [0.4, 0.2]}
    texts = [
        {"query_text": f"{ASK} What is {n}?\n", "query_image": f"images/A-OKVQA/{n}.png",
         "pos_text": f"answer {n}", "pos_image": "",
         "hard_negatives": [[f"wrong {n}", ""], ["no", ""]], **scores}
        for n in range(COUNT // 2)
    ]  # fmt: skip
    shown = [
        {"query_text": f"Find dialogue {n}: Q:is it {n}\nA:yes\n\n", "query_image": "",
         "pos_text": SHOWN, "pos_image": f"images/VisDial/{n}.png",
         "hard_negatives": [[SHOWN, f"images/VisDial/{n + 4}.png"],
                            [SHOWN, "images/A-OKVQA/7.png"]], **scores}
        for n in range(COUNT // 2)
    ]  # fmt: skip
    return [*texts, *shown]


def unime_v2(folder: Path) -> Path:
    for subset in ("A-OKVQA", "VisDial"):
        draw(folder / "images" / subset)
    (folder / "train_data_scores.json").write_text(json.dumps(unime_v2_rows(), indent=4))
    return folder / "train_data_scores.json"


def mmeb_rows(subset: str, wrong: Callable[[list[str]], Any] = lambda some: some[0]) -> Rows:
    """A query without a token's picture (as WebQA's), a picture without a token, nulls, a
    negative."""
    rows: Rows = [
        {"qry": f"{ASK} What is {n}?\n", "qry_image_path": f"images/{subset}/Train/{n}.png",
         "pos_text": f"answer {n}", "pos_image_path": "",
         "neg_text": wrong([f"wrong {n}", "no"]), "neg_image_path": wrong(["", ""])}
        for n in range(COUNT)
    ]  # fmt: skip
    rows[1] |= {"qry": "<|image_1|>\nNo picture: who was it?\n", "qry_image_path": ""}
    shown = [f"images/{subset}/Train/{n}.png" for n in (9, 10, 11)]
    rows[2] |= {"qry": "No token", "pos_text": SHOWN, "pos_image_path": shown[0],
                "neg_text": wrong(["", SHOWN]), "neg_image_path": wrong(shown[1:])}  # fmt: skip
    return rows


def mmeb_train(folder: Path) -> Path:
    """Two subsets with two splits and a stale one, and one that is evaluated on."""
    for subset in ("A-OKVQA", "DocVQA", "FashionIQ"):
        draw(folder / "images" / subset / "Train")
        rows = mmeb_rows(subset)
        for split, count in (("original", COUNT), ("diverse_instruction", COUNT), ("train", 3)):
            write_table(folder / subset / f"{split}-00000-of-00001.parquet", rows[:count])
    return folder


def write_table(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def mme5(folder: Path) -> Path:
    """Lists as Python prints them."""
    draw(folder / "images/A-OKVQA/Train")
    rows = mmeb_rows("A-OKVQA", wrong=repr)
    (folder / "A-OKVQA").mkdir()
    write_lines(folder / "A-OKVQA/train.jsonl", rows)
    return folder


def saved_rows(folder: Path) -> Rows:
    """Pictures as content and as paths, several wrong answers, labels."""
    return [
        {"anchor": f"What is {n}?",
         "positive": {"bytes": picture_bytes(n), "path": f"{n}.png"} if n % 2 else
         {"bytes": None, "path": str(folder / f"pets/pictures/{n}.png")},
         "negative_1": {"bytes": picture_bytes(n + COUNT), "path": None},
         "negative_2": {"bytes": picture_bytes((n + 1) % COUNT), "path": None}, "label": 1}
        for n in range(COUNT)
    ]  # fmt: skip


def sentence_transformers(folder: Path) -> Path:
    image = datasets.Image(decode=False)
    features = datasets.Features(
        {"anchor": datasets.Value("string"), "positive": image, "negative_1": image,
         "negative_2": image, "label": datasets.Value("int64")})  # fmt: skip
    draw(folder / "pets/pictures")
    rows = saved_rows(folder)
    splits = {"train": rows[HELD:], "test": rows[:HELD]}
    made = {name: datasets.Dataset.from_list(some, features) for name, some in splits.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder / "pets"))  # type: ignore[arg-type]
    return folder / "pets"


def tar_files(numbers: range) -> dict[str, bytes]:
    """As img2dataset writes them, in folders; a caption in .txt, .json or .cls; others beside."""
    files: dict[str, bytes] = {}
    for n in numbers:
        base = f"{n // 4:05d}/{n:05d}"
        files[f"{base}.{'PNG' if n == 2 else 'png'}"] = picture_bytes(n)
        described = {"caption": f"described {n}", "url": "http://nowhere", "width": 32}
        files |= [
            {f"{base}.txt": f" caption {n}\n".encode(), f"{base}.json": b"{}"},
            {f"{base}.json": json.dumps(described).encode()},
            {f"{base}.cls": f"class {n}".encode(), f"{base}.seg.npy": b"\x93NUMPY"},
            {f"{base}.json": json.dumps({"texts": [f"one {n}", f"two {n}"]}).encode()},
        ][n % 4]
    return files


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            add(tar, tarfile.TarInfo(name), content)
    return path


def add(tar: tarfile.TarFile, member: tarfile.TarInfo, content: bytes) -> None:
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def webdataset(folder: Path) -> Path:
    write_tar(folder / "tars/00000.tar", tar_files(range(4)))
    write_tar(folder / "tars/00001.tar", tar_files(range(4, COUNT)))
    (folder / "tars/00000_stats.json").write_text('{"count": 4}')
    return folder / "tars"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "ms_swift": ms_swift,
    "lco": lco,
    "nemo": nemo,
    "unime_v2": unime_v2,
    "mmeb_train": mmeb_train,
    "mme5": mme5,
    "sentence_transformers": sentence_transformers,
    "webdataset": webdataset,
}
