"""Prepared sets: what is written is what stage 2 reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unime.config import PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.prepared import folder as prepared_folder
from unime.data.prepared.folder import PreparedSet, write_rows
from unime.data.prepared.rows import SCHEMA
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair

PAIRS = [
    Pair(Item("a red cat", instruction="Find it:"), Item(images=("a.png",)), (), "x.csv:0"),
    Pair(
        Item("", ("a.png", "b.png")),
        Item(" two\nlines "),
        (Item("no"), Item("text", ("b.png",), instruction="See:")),
        "x.csv:1",
        (0.9, 0.2, 0.1),
        "a cat",
    ),
    Pair(Item("only text"), Item("another"), (), "x.csv:2", answer="7"),
]


def make(root: Path, pairs: list[Pair] = PAIRS, pictures: str = "pictures") -> Path:
    (root / pictures).mkdir(parents=True, exist_ok=True)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(root / pictures / f"{name}.png")
    write_rows(root / "set" / "pets", "train", pairs, len(pairs))
    PreparedSet(str(root / pictures), {"pets": {"train": len(pairs)}}).write(root / "set")
    return root / "set"


def load(root: Path, **settings: object) -> PairDataset:
    data = PairData(root=str(root), sources={"pets": PairSource()}, **settings)  # type: ignore[arg-type]
    return PairDataset.load(data, seed=0)


def absolute(item: Item, folder: Path) -> Item:
    return replace(item, images=tuple(str(folder / path) for path in item.images))


def test_what_is_read_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_folder, "SHARD_ROWS", 2)  # in two files
    root = make(tmp_path)
    found = load(root)
    pictures = tmp_path / "pictures"
    assert list(found) == [found[n] for n in range(3)] == [
        replace(
            pair,
            query=absolute(pair.query, pictures),
            target=absolute(pair.target, pictures),
            negatives=tuple(absolute(item, pictures) for item in pair.negatives),
        )
        for pair in PAIRS
    ]  # fmt: skip
    files = sorted(path.name for path in (root / "pets").iterdir())
    assert files == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]


def test_datasets_reads_it(tmp_path: Path) -> None:
    root = make(tmp_path)
    rows = datasets.load_dataset(
        "parquet", data_files=str(root / "pets" / "train-*.parquet"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert rows[0]["query"] == {"text": "a red cat", "images": [], "instruction": "Find it:"}
    assert rows["task"] == ["pets"] * 3


def test_sets_of_before_rows_said_their_answers(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "pets" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["answer", "scores"]), path)
    found = list(load(root))
    assert [pair.answer for pair in found] == [""] * 3 and found[1].scores == ()
    assert [pair.row_id for pair in found] == [pair.row_id for pair in PAIRS]


def test_a_prepared_set_says_its_answers_itself(tmp_path: Path) -> None:
    root = make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(root, answer_column="row_id")
    expected = f"null: the rows of a prepared set ({root}) say it themselves"
    assert str(caught.value) == f"data.answer_column: got 'row_id', expected {expected}"


def test_pictures_below_the_set_need_no_folder(tmp_path: Path) -> None:
    root = make(tmp_path, pictures="set/images")
    PreparedSet("", {"pets": {"train": 3}}).write(root)
    rows = [replace(PAIRS[0], target=Item(images=("images/a.png",)))]
    write_rows(root / "pets", "train", rows, 1)
    assert load(root)[0].target.images == (str(root / "images" / "a.png"),)


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        (replace(PAIRS[0], target=Item(images=("c.png",))), "target.images[0]"),
        (replace(PAIRS[0], target=Item(images=("../set/set.json",))), "target.images[0]"),
        (replace(PAIRS[0], query=Item()), "query.text"),
        (replace(PAIRS[0], negatives=(Item(),)), "negatives[0].text"),
        (replace(PAIRS[0], row_id=" "), "row_id"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, pair: Pair, named: str) -> None:
    root = make(tmp_path, [PAIRS[1], pair])
    with pytest.raises(DataError) as caught:
        load(root)
    assert "train-00000-of-00001.parquet, row 1" in str(caught.value)
    assert named in str(caught.value)
    found = load(root, on_bad_row="drop")
    assert len(found) == 1 and len(found.dropped) == 1


def test_as_many_rows_as_were_said(tmp_path: Path) -> None:
    for total in (2, 4):
        with pytest.raises(DataError):
            write_rows(tmp_path / "pets", "train", PAIRS, total)


def test_rows_are_written_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_folder, "AT_ONCE", 2)
    write_rows(tmp_path / "pets", "train", iter(PAIRS), 3)
    table = pq.read_table(tmp_path / "pets" / "train-00000-of-00001.parquet")
    assert table.schema.equals(SCHEMA) and table["row_id"].to_pylist() == [
        pair.row_id for pair in PAIRS
    ]
