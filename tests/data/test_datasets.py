"""Items, texts, pairs, and which rows make up which batch.

./launch.sh test tests/data/test_datasets.py
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from eval.miniatures.mmeb import train_rows, write_picture, write_rows
from unime.backbones.families import BACKBONES
from unime.config import InputConfig, PairData, PairSource, TextData
from unime.data.datasets import PairDataset, TextDataset
from unime.data.teacher_store import TeacherMeta, write_store
from unime.data.texts import read_texts
from unime.errors import DataError
from unime.inputs.items import Item, item_key
from unime.models.item_processor import ItemProcessor
from unime.training.chunks import ChunkLimits
from unime.training.collator import PairCollator

# Items -------------------------------------------------------------------------------------------


def test_kinds() -> None:
    items = Item("a"), Item("", ("b",)), Item("a", ("b",)), Item()
    assert [item.kind for item in items] == ["text", "image", "image+text", ""]


def test_keys_are_equal_where_text_and_image_content_are(tmp_path: Path) -> None:
    first, other = (str(write_picture(tmp_path / f"{n}.png", n)) for n in range(2))
    copy = str(shutil.copy(first, tmp_path / "copy.png"))
    assert item_key(Item("a", (first,))) == item_key(Item("a", (copy,)))
    different = [Item("a"), Item("b"), Item("a", (first,)), Item("a", (other,))]
    shown = [(first,), (first, other), (other, first), (first, first)]
    different += [Item("", pictures) for pictures in shown]
    keys = [item_key(item) for item in different]
    assert len(set(keys)) == len(keys)
    assert torch.tensor(keys).tolist() == keys  # fits int64
    with pytest.raises(DataError, match="no.png: cannot read the image: No such file"):
        item_key(Item("", (str(tmp_path / "no.png"),)))


# Texts -------------------------------------------------------------------------------------------


def write_texts(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        quoted = [",".join(f'"{row[key]}"' for key in rows[0]) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *quoted]) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_texts_of_every_format(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"id": "0", "sent0": "A dog, tame", "sent1": "NA"},
        {"id": "1", "sent0": "two\nlines", "sent1": "A dog, tame"},
        {"id": "2", "sent0": "ünïcödé 犬", "sent1": "null"},
    ]
    file = write_texts(tmp_path / f"t{suffix}", rows)
    found = read_texts([file], ["sent0", "sent1"])
    assert found.texts == ["A dog, tame", "NA", "two\nlines", "ünïcödé 犬", "null"]
    assert found.num_duplicates == 1
    assert found.row_ids[:2] == [f"t{suffix}:0:sent0", f"t{suffix}:0:sent1"]
    assert read_texts([file, file], ["sent0"]).num_duplicates == 3
    assert read_texts([file], ["sent0", "sent1"], limit=2).texts == ["A dog, tame", "NA"]


BAD_TEXTS = [
    ("t.jsonl", '{"text": "a"}\n{"text": ""}\n', ", row 1, column 'text': got ''"),
    ("t.jsonl", '{"text": "a"}\n{"text": 7}\n', ", row 1, column 'text': got 7"),
    ("t.jsonl", '{"text": null}\n', ", row 0, column 'text': got None"),
    ("t.jsonl", '{"word": "a", "id": 1}\n', ", row 0: no column 'text'; it has 'word', 'id'"),
    ("t.jsonl", '{"text": "a"}\n{"text"\n', ", line 2: cannot read it: "),
    ("t.jsonl", '{"text": "a"}\n["b"]\n', ", line 2: got ['b'], expected an object"),
    ("t.jsonl", "", ": no texts"),
    ("t.csv", "text\na\n \n", ", row 1, column 'text': got ' '"),
    ("t.csv", "a,b\n1,2\n", ": no column 'text'; it has 'a', 'b'"),
    ("t.csv", "id,text\n1\n", ", row 0, column 'text': got None"),
    ("t.csv", 'text\na\n"b"c\n', ", line 3: not CSV: "),
    ("t.csv", b"text\n\xff\n", ": cannot read it: 'utf-8' codec"),
    ("t.parquet", "no parquet", ": cannot read it: "),
    ("t.txt", "a\n", ": texts are read from .jsonl, .csv, .parquet files"),
    ("lost.jsonl", None, ": cannot read it: "),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_TEXTS)
def test_bad_texts(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}{message}")):
        read_texts([str(tmp_path / name)], ["text"])


def test_bad_texts_in_parquet(tmp_path: Path) -> None:
    file = write_texts(tmp_path / "t.parquet", [{"text": "a", "n": 1}, {"text": None, "n": 2}])
    with pytest.raises(DataError, match=r"t.parquet, row 1, column 'text': got None"):
        read_texts([file], ["text"])
    with pytest.raises(DataError, match=r"t.parquet: no column 'word'; it has 'text', 'n'"):
        read_texts([file], ["word"])
    with pytest.raises(DataError, match=r"t.parquet, row 0, column 'n': got 1, expected a text"):
        read_texts([file], ["n"])


def test_rows_together_keeps_every_row_whole(tmp_path: Path) -> None:
    """Also with texts that were there before: a row without its word would be half a row."""
    pairs = [("dog", "an animal"), ("cat", "an animal"), ("dog", "a tame canine")]
    rows = [{"text": word, "related": definition} for word, definition in pairs]
    file = write_texts(tmp_path / "t.jsonl", rows)
    texts = [text for pair in pairs for text in pair]
    meta = TeacherMeta("random", None, "", 4)
    write_store(tmp_path / "store", texts, meta, lambda some: np.eye(4)[: len(some)] + 1, 9)
    columns, store = ["text", "related"], str(tmp_path / "store")
    dataset = TextDataset.load(TextData([file], columns, rows_together=True, teacher=store))
    assert dataset.texts == texts
    assert (dataset.texts_per_row, dataset.num_duplicates) == (2, 0)
    assert torch.equal(dataset[0].teacher, dataset[4].teacher)  # "dog" twice


def test_a_text_dataset_has_the_teachers_row_of_each_text(tmp_path: Path) -> None:
    rows = [{"text": f"text {n % 6}"} for n in range(9)]
    file = write_texts(tmp_path / "t.jsonl", rows)
    vectors = {f"text {n}": np.eye(6)[n] for n in range(6)}
    meta = TeacherMeta("teacher", None, "", 6)
    store = tmp_path / "store"
    write_store(store, vectors, meta, lambda texts: np.stack([vectors[t] for t in texts]), 4)
    dataset = TextDataset.load(TextData(texts=[file], teacher=str(store)))
    assert (len(dataset), dataset.num_duplicates) == (6, 3)
    assert dataset.task_sizes == {"text": 6}
    for number, row in enumerate(dataset):
        assert (row.text, row.row_id) == (f"text {number}", f"t.jsonl:{number}:text")
        assert row.teacher.tolist() == np.eye(6)[number].tolist()
        row.teacher.add_(1)  # a copy: the store is not written to
    assert float(dataset[0].teacher.sum()) == 1


# Pairs -------------------------------------------------------------------------------------------


def pair_data(root: Path, **sources: PairSource) -> PairData:
    for name, count in (("First", 5), ("Second", 3)):
        write_rows(root, name, "original", train_rows(root, name, count))
    return PairData(root=str(root), sources=sources)


def test_pairs_of_several_sources(tmp_path: Path) -> None:
    data = pair_data(tmp_path, Second=PairSource(weight=2.0), First=PairSource(rows=4))
    dataset = PairDataset.load(data, seed=0)
    assert dataset.task_sizes == {"Second": 3, "First": 4}
    assert dataset.task_weights == {"Second": 2.0, "First": 1.0}
    expected = [*(f"Second:{n}" for n in range(3)), *(f"First:{n}" for n in range(4))]
    assert [pair.row_id for pair in dataset] == expected
    assert dataset[3].target == Item("answer 0")
    assert dataset.dropped == []
    for outside in (7, -1):
        with pytest.raises(IndexError):
            dataset[outside]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "First_1.png: not a readable image: "),
        (lambda path: path.write_text("no picture"), "First_1.png: not a readable image: "),
        (lambda path: write_picture(path, 1, size=200), "First_1.png: 200 x 200 pixels, more than"),
    ],
)
def test_an_image_that_cannot_be_read_makes_a_bad_row(
    tmp_path: Path, damage: Callable[[Path], object], message: str, tiny_model: Callable[..., Path]
) -> None:
    data = pair_data(tmp_path, First=PairSource(), Second=PairSource())
    again = train_rows(tmp_path, "First", 5)
    write_rows(tmp_path, "First", "original", [*again, again[1], again[2] | {"pos_text": ""}])
    damage(tmp_path / "images/First/Train/First_1.png")
    processor = prepared_by(tiny_model("llava"), "llava", None, max_image_pixels=10_000)
    with pytest.raises(DataError) as error:
        PairDataset.load(data, 0, processor)
    assert "First/original-00000-of-00001.parquet, row 1, column 'qry_im" in str(error.value)
    assert message in str(error.value) and "(and 2 more bad rows)" in str(error.value)
    data.on_bad_row = "drop"
    dataset = PairDataset.load(data, 0, processor)
    assert dataset.task_sizes == {"First": 4, "Second": 3}
    kept = [pair.row_id for pair in dataset][:4]
    assert kept == ["First:0", "First:2", "First:3", "First:4"]
    places = [listed.split(".parquet, ")[1].split(",")[0] for listed in dataset.dropped]
    assert places == ["row 1", "row 5", "row 6"]
    assert message in dataset.dropped[0] and message in dataset.dropped[1]
    data.verify_images = False
    assert PairDataset.load(data, 0, processor).task_sizes["First"] == 6


def prepared_by(folder: Path, family: str, most_tokens: int | None, **inputs: Any) -> ItemProcessor:
    hf_processor = AutoProcessor.from_pretrained(folder)
    return ItemProcessor(hf_processor, BACKBONES[family], InputConfig(**inputs), most_tokens)


@pytest.mark.parametrize(
    "family, width, refused",
    [
        ("qwen2_vl", 1200, "1200 x 5 pixels, one side more than 200 times the other"),
        ("phi4_multimodal", 900, "the processor refuses it"),
    ],
)
def test_an_image_that_the_processor_refuses_makes_a_bad_row(
    tmp_path: Path, family: str, width: int, refused: str, tiny_model: Callable[..., Path]
) -> None:
    data = pair_data(tmp_path, First=PairSource(), Second=PairSource())
    thin = Image.new("RGB", (width, 5))
    thin.save(tmp_path / "images/First/Train/First_1.png")
    thin.resize((300, 300)).save(tmp_path / "images/First/Train/First_2.png")
    processor = prepared_by(tiny_model(family), family, None)
    with pytest.raises(DataError, match=f"row 1, query: .*First_1.png: {refused}"):
        PairDataset.load(data, 0, processor)
    data.on_bad_row = "drop"
    dataset = PairDataset.load(data, 0, processor)
    assert dataset.task_sizes == {"First": 4, "Second": 3} and len(dataset.dropped) == 1
    for pair in dataset:
        processor(pair.query), processor(pair.target)
    resized = prepared_by(tiny_model(family), family, None, resolution="64x64")
    assert PairDataset.load(data, 0, resized).dropped == []
    data.verify_images = False
    rows = list(PairDataset.load(data, 0, processor))
    advice = f"row First:1: .*{refused}.*; data.verify_images=true finds such rows"
    with pytest.raises(DataError, match=advice):
        PairCollator(processor, ChunkLimits(2, 2), verified=False)(rows)


def test_an_item_of_too_many_tokens_makes_a_bad_row(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """A row is refused if and only if it is when it is prepared, short and long texts alike."""
    data = pair_data(tmp_path, First=PairSource(), Second=PairSource())
    rows = [
        row | {"neg_text": None, "neg_image_path": None} for row in train_rows(tmp_path, "First", 5)
    ]
    rows[1]["qry"] += " Say it in many words." * 9
    rows[2]["pos_text"] = "so" * 200
    rows[3]["neg_text"] = ["a", "b" * 300]
    write_rows(tmp_path, "First", "original", rows)
    Image.new("RGB", (20, 4000)).save(tmp_path / "images/First/Train/First_4.png")
    unlimited = prepared_by(tiny_model("qwen2_vl"), "qwen2_vl", None)
    everything = list(PairDataset.load(data, 0, unlimited))
    prepare = prepared_by(tiny_model("qwen2_vl"), "qwen2_vl", 120)

    def fits(item: Item) -> bool:
        try:
            return len(prepare(item)["input_ids"]) <= 120
        except DataError as error:
            assert "tokens, more than the 120 of the model's max_position_embeddings" in str(error)
            return False

    items = {pair.row_id: (pair.query, pair.target, *pair.negatives) for pair in everything}
    good = [row_id for row_id, row in items.items() if all(map(fits, row))]
    data.on_bad_row = "drop"
    dataset = PairDataset.load(data, 0, prepare)
    assert [pair.row_id for pair in dataset] == good and 3 < len(good) < 8
    names = [message.split(": ")[0].split("row ")[1] for message in dataset.dropped]
    assert names == ["1, query", "2, target", "3, negative 1", "4, query"]
    assert prepare.num_truncated == 0
