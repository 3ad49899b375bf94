"""One table of cells that are not as they should be, in every format of rows: whoever reads one is
told file, row, column and value.

./launch.sh test tests/eval/tasks/test_bad_cells.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.miniatures.captions import (
    FLICKR,
    SHAREGPT4V,
    SHAREGPT4V_FILE,
    SUGARCREPE,
    VAL2017,
    sharegpt4v_items,
    sugarcrepe_rows,
    write_captioned,
    write_sharegpt4v,
    write_sugarcrepe,
)
from eval.miniatures.documents import write_corpus, write_qrels, write_queries
from eval.miniatures.mmeb import (
    BOTH_ENCODINGS,
    picture_bytes,
    tasks_in_both_encodings,
    train_rows,
    write_eval_suite,
    write_rows,
)
from eval.miniatures.videos import write_video_tasks
from eval.tasks.beir import Beir
from eval.tasks.caption_retrieval import CaptionedRows
from eval.tasks.long_captions import ShareGpt4v
from eval.tasks.mmeb_instruct import MmebInstructRows
from eval.tasks.mmeb_v1 import MmebRows
from eval.tasks.sugarcrepe import SugarCrepe
from eval.tasks.suites import Format, load_suite
from tests.support.paths import SUITES
from tests.support.results import source
from unime.config import PairData, PairSource
from unime.data.train_subset import load_train_subset
from unime.errors import DataError

TEST = "test-00000-of-00001.parquet"
VIDEOS = load_suite(str(SUITES / "mmeb_v2_video.yaml"))
FORMATS: dict[str, tuple[str, Format | None]] = {  # and the file of each
    "train": ("X/original-00000-of-00001.parquet", None),
    **{name: (f"VLM2Vec/{file}", VIDEOS[name].format) for name, file in {
        "K700": "Kinetics-700/data/test.jsonl", "SmthSmthV2": "SmthSmthV2/data/test.jsonl",
        "MomentSeeker": f"MomentSeeker/data/{TEST}", "Video-MME": f"Video-MME/videomme/{TEST}",
        "NExTQA": f"NExTQA/MC/{TEST}", "ActivityNetQA": f"ActivityNetQA/data/{TEST}",
    }.items()},
    **{name: (f"{name}/{TEST}", MmebRows()) for name in ("Words_i2t", "Names")},
    **{name: (f"instruct/{name}/{TEST}",
              MmebInstructRows("instruct", parser=parser, blank_line=name == "Dialogues"))
       for name, (parser, _, _) in BOTH_ENCODINGS.items()},
    "t2i": (f"{FLICKR}/data/{TEST}", CaptionedRows("t2i", FLICKR)),
    "i2t": (f"{FLICKR}/data/{TEST}", CaptionedRows("i2t", FLICKR)),
    "ShareGPT4V": (f"{SHAREGPT4V}/{SHAREGPT4V_FILE}", ShareGpt4v("t2i", SHAREGPT4V)),
    "SugarCrepe": (f"{SUGARCREPE}/data/add_att.json", SugarCrepe(file="data/add_att.json")),
    "corpus": (f"org/pages/corpus/{TEST}", Beir("org/pages")),
    "texts": (f"org/pages/corpus/{TEST}", Beir("org/pages", document_text="text")),
    "queries": (f"org/pages/queries/{TEST}", Beir("org/pages")),
    "qrels": (f"org/pages/qrels/{TEST}", Beir("org/pages")),
}  # fmt: skip
ALL = None  # of the rows, where a column has one type
GONE = object()  # no such column
HTML = {"bytes": b"<html>no</html>", "path": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of all formats."""
    root = tmp_path_factory.mktemp("formats")
    write_rows(root, "X", "original", train_rows(root, "X", 2))
    write_eval_suite(root, root / "v1.yaml")
    for name, task in tasks_in_both_encodings(root).items():
        write_rows(root / "instruct", name, "test", task.instruct)
    write_captioned(root, FLICKR, [["a"], ["b", "c"]])
    write_sharegpt4v(root, sharegpt4v_items(root, 2))
    write_sugarcrepe(root, "add_att", sugarcrepe_rows(root, 2))
    write_corpus(root / "org/pages", *((f"p{n}", picture_bytes(n)) for n in range(3)))
    write_queries(root / "org/pages", ("a", "Which sea?"), ("b", "Which year?"))
    write_qrels(root / "org/pages", ("a", "p2", 1), ("b", "p0", 2), ("b", "p1", 1))
    write_video_tasks(root)
    return root


def read(root: Path, name: str) -> None:
    _, reads = FORMATS[name]
    if reads is None:
        data = PairData(root=str(root), sources={"X": PairSource()}, verify_images=False)
        load_train_subset(data, "X")
    else:
        reads.read(name, source(root))


def change(file: Path, row: int | str | None, cells: dict[str, Any]) -> None:
    """Put these cells into a row, or into all."""
    rows: Any
    if file.suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    elif file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = json.loads(file.read_text())
    for number in range(len(rows)) if row is ALL else [row]:
        rows[number] = {k: v for k, v in (rows[number] | cells).items() if v is not GONE}
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        lines = map(json.dumps, rows)
        file.write_text("\n".join(lines) if file.suffix == ".jsonl" else json.dumps(rows))


BAD_CELLS: list[tuple[str, int | str | None, dict[str, Any], str]] = [
    # training rows
    ("train", 0, {"qry_image_path": "images/no.png"}, "'images/no.png': no such image in ROOT"),
    ("train", 0, {"qry_image_path": "../secret.png"}, "'../secret.png': leaves the image folder"),
    ("train", 0, {"qry_image_path": "images/../../x.png"}, "leaves the image folder"),
    ("train", 0, {"qry_image_path": "/etc/hostname"}, "'/etc/hostname': leaves the image folder"),
    ("train", 0, {"qry_image_path": "C:\\x.png"}, "leaves the image folder"),
    ("train", 0, {"qry_image_path": "https://a.bc/x.png"}, "'https://a.bc/x.png' is an address"),
    ("train", 0, {"qry_image_path": "cat: asleep.png"}, "'cat: asleep.png': no such image in"),
    ("train", 0, {"qry_image_path": "."}, "'.': names no file"),
    ("train", 0, {"qry_image_path": "images/X/Train"}, "'images/X/Train': no such image in"),
    ("train", 0, {"qry": "", "qry_image_path": None}, "and 'qry_image_path': got '' and None"),
    ("train", 0, {"qry": "<|image_1|>\n", "qry_image_path": ""}, "got '<|image_1|>\\n' and ''"),
    ("train", 0, {"pos_text": " "}, "and 'pos_image_path': got ' ' and ''"),
    ("train", ALL, {"pos_text": 3}, "got 3"),
    ("train", ALL, {"qry": ["a"]}, "got ['a']"),
    ("train", ALL, {"neg_text": ["a", "b"], "neg_image_path": [""]}, "'neg_image_path': 2 and 1"),
    ("train", ALL, {"neg_image_path": ["", "no.png"], "neg_text": ["a", "b"]}, "[1]': 'no.png': "),
    ("train", ALL, {"neg_text": 5}, "[0]': got 5"),
    ("train", ALL, {"neg_text": 0}, "[0]': got 0"),
    ("train", ALL, {"pos_image_path": GONE}, "no column 'pos_image_path'; it has 'qry', 'qry_"),
    # MMEB, version 1
    ("Words_i2t", 0, {"qry_img_path": "no.png"}, "'no.png': no such image in ROOT or ROOT/eval_"),
    ("Names", 0, {"qry_text": None, "qry_img_path": ""}, "and 'qry_img_path': got None and ''"),
    ("Names", 0, {"tgt_img_path": ["", "../t.png", ""]}, "[1]': '../t.png': leaves the image"),
    ("Names", 0, {"tgt_text": ["a", "", "x"], "tgt_img_path": [""] * 3}, "[1]': got '' and ''"),
    ("Names", 0, {"tgt_text": ["a"]}, "and 'tgt_img_path': 1 and 3 entries"),
    ("Names", 0, {"tgt_text": ["a"], "tgt_img_path": [""]}, "1 entries, expected 2 or more"),
    ("Names", 0, {"tgt_text": None}, "got None"),
    ("Names", ALL, {"tgt_text": "word"}, "got 'word'"),
    ("Names", ALL, {"tgt_text": [1, 2, 3]}, "[0]': got 1"),
    ("Names", ALL, {"qry_text": 1.5}, "got 1.5"),
    ("Names", ALL, {"tgt_text": GONE, "qry_inst": "i", "tgt_inst": "j"},
     "no column 'tgt_text'; it has 'qry_text', 'qry_img_path', 'tgt_img_path', 'qry_inst', 'tgt_i"),
    # MMEB as MMEB-V2 has it
    ("Kinds", ALL, {"qry_img_path": ""}, "got '', expected a picture"),
    ("Kinds", ALL, {"qry_img_path": "no.png"}, "'no.png': no such image in"),
    ("Kinds", ALL, {"qry_inst": 3}, "got 3"),
    ("Kinds", ALL, {"tgt_text": None}, "got None"),
    ("Kinds", ALL, {"tgt_text": ["a"]}, "'tgt_text' and 'tgt_img_path': 1 entries, expected 2 or"),
    ("Kinds", ALL, {"tgt_text": ["a", "", "b"]}, "and 'tgt_img_path[1]': got ''"),
    ("Questions", ALL, {"qry_text": ["a"]}, "got ['a']"),
    ("Dialogues", ALL, {"tgt_inst": 1.5}, "got 1.5"),
    ("Dialogues", ALL, {"qry_text": None, "qry_inst": ""}, "'qry_img_path': got ' \\n\\n'"),
    ("News", ALL, {"tgt_text": ["a", "b", "c"]}, "and 'tgt_img_path': 3 and 6 entries"),
    ("News", ALL, {"tgt_img_path": ["Tiny/4.png", None, *["Tiny/5.png"] * 4]}, "[1]': got None"),
    ("Parts", ALL, {"tgt_img_path": ["Tiny/4.png", "../x.png", *["Tiny/5.png"] * 2]}, "'../x.png'"),
    ("News", ALL, {"tgt_inst": GONE}, "no column 'tgt_inst'"),
    # captions and pictures
    *((direction, 1, {"text": captions}, said)
      for direction in ("t2i", "i2t")
      for captions, said in [
          (["b", " \n"], "[1]': got ' \\n'"), (["b", None], "[1]': got None"),
          ([], "got []"), (None, "got None"),
      ]),
    ("t2i", ALL, {"image": None}, "got NoneType without bytes"),
    ("t2i", ALL, {"image": "0.png"}, "got str without bytes"),
    ("t2i", ALL, {"image": {"bytes": None, "path": "0.png"}}, "got dict without bytes"),
    ("t2i", ALL, {"image": HTML}, "not a picture: it begins with b'<html>no'"),
    ("t2i", ALL, {"text": GONE, "caption": ["a"]}, "no column 'text'; it has 'image', 'caption'"),
    ("ShareGPT4V", 1, {"image": "sam/images/no.jpg"}, "'sam/images/no.jpg': no such image in ROOT"),
    ("ShareGPT4V", 1, {"image": "../secret.jpg"}, "'image': '../secret.jpg': leaves the image fol"),
    ("ShareGPT4V", 1, {"image": None}, "'image': got None"),
    ("ShareGPT4V", 1, {"conversations": [{"value": "x"}]}, "no 'image' or no 'conversations[1]"),
    ("ShareGPT4V", 1, {"conversations": None}, "no 'image' or no 'conversations[1].value'"),
    ("ShareGPT4V", 1, {"conversations": [{}, {"value": "\n"}]}, "[1].value': got '\\n'"),
    ("SugarCrepe", "1", {"filename": "no.jpg"}, f"'{VAL2017}/no.jpg': no such image in ROOT"),
    ("SugarCrepe", "1", {"caption": ""}, "got ''"),
    ("SugarCrepe", "1", {"negative_caption": None}, "got None"),
    ("SugarCrepe", "1", {"filename": GONE, "negative_caption": GONE}, "no column 'filename'"),
    # BEIR triples
    ("qrels", 1, {"corpus-id": "p9"}, "no document 'p9'"),
    ("qrels", 0, {"score": math.nan}, "got nan"),
    ("qrels", ALL, {"score": "1"}, "got '1'"),
    ("qrels", 0, {"corpus-id": None}, "got None"),
    ("qrels", ALL, {"score": GONE}, "no column 'score'; it has 'query-id', 'corpus-id'"),
    ("queries", ALL, {"query-id": 0.5}, "got 0.5"),
    ("queries", 1, {"query-id": "a"}, "'a' is also in FILE, row 0"),
    ("queries", 1, {"query": " "}, "got ' '"),
    ("queries", 0, {"query": None}, "got None"),
    ("corpus", 2, {"corpus-id": "p1"}, "'p1' is another document"),
    ("corpus", 0, {"image": HTML}, "not a picture: it begins with b'<html>no'"),
    ("corpus", ALL, {"image": GONE, "text": "seas"}, "no column 'image'; it has 'corpus-id'"),
    ("texts", ALL, {"text": 0}, "got 0"),  # no empty text
    ("texts", ALL, {"text": 7}, "got 7"),
    # videos
    ("K700", 0, {"video_id": "../v0"}, "frames/video_cls/K700/../v0': leaves the image folder"),
    ("K700", 1, {"video_id": None}, "got None"),
    ("K700", 1, {"pos_text": "sleeping late"}, "'sleeping late' is not among the 700 classes"),
    ("SmthSmthV2", 0, {"neg_text": ["x", "y"]},
     "column 'pos_text': 'Closing something' is not among the 2 classes of column 'neg_text'"),
    ("SmthSmthV2", 0, {"neg_text": []}, "got []"),
    ("MomentSeeker", 1, {"positive_frames": []}, "got []"),
    ("MomentSeeker", 0, {"input_frames": "film.avi"}, "got 'film.avi'"),
    ("MomentSeeker", 1, {"input_frames": "gate.jpg"}, "MomentSeeker/query_gate.jpg': no such"),
    ("Video-MME", 1, {"answer": "F"}, "got 'F', expected the letter of one of ['A. Thing a.',"),
    ("Video-MME", 1, {"options": ["A. one", ". ", "C. three"]}, "'C. three']: one is empty"),
    ("Video-MME", 2, {"options": ["A. one"]}, "got ['A. one']"),
    ("NExTQA", 0, {"answer": 5}, "got '5', expected the index of one of ['thing 0'"),
    ("ActivityNetQA", 3, {"answer": "perhaps"}, "got 'perhaps', expected the text of one of ['yes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "cells", "said"),
    BAD_CELLS,
    ids=[f"{name}: {next(iter(cells))}: {said}" for name, _, cells, said in BAD_CELLS],
)
def test_bad_cells(
    root: Path, name: str, row: int | str | None, cells: dict[str, Any], said: str
) -> None:
    file = root / FORMATS[name][0]
    before = file.read_bytes()
    try:
        change(file, row, cells)
        with pytest.raises(DataError) as error:
            read(root, name)
    finally:
        file.write_bytes(before)
    of_table = row is ALL and GONE in cells.values()
    kind = "item" if name == "ShareGPT4V" else "row"
    where = f"{file}: " if of_table else f"{file}, {kind} {0 if row is ALL else row!r}"
    assert str(error.value).startswith(where)
    assert f"'{next(iter(cells))}" in str(error.value), "of several cells the first is meant"
    assert said.replace("ROOT", str(root)).replace("FILE", str(file)) in str(error.value)


def test_what_is_not_changed_is_good(root: Path) -> None:
    for name in {name for name, *_ in BAD_CELLS} - {"texts"}:
        read(root, name)
