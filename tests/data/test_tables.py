"""A table's rows are those of its files as they are, whatever was there before.

./launch.sh test tests/data/test_tables.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.miniatures.mmeb import picture_bytes, write_json, write_parquet, write_picture
from eval.tasks.sources import EvalSource
from tests.support.paths import ROOT
from unime.config import EvalData, PairData, PairSource
from unime.data.survey import survey
from unime.data.tables import HeldTable, load_table
from unime.data.texts import read_texts
from unime.data.train_subset import load_train_subset
from unime.errors import DataError
from unime.inputs.items import Item, Pair, image_digest, item_key

SHARD = "original-00000-of-00001.parquet"


def released(root: Path, text: str) -> None:
    """A release with the time stamps of every other, as archives and images have them."""
    row = {"qry": text, "qry_image_path": "", "pos_text": text, "pos_image_path": ""}
    write_parquet(root / "X" / SHARD, [row] * 3)
    write_json(root / "J/original.jsonl", [row])
    write_parquet(root / "texts.parquet", [{"text": text}])
    write_picture(root / "a.bmp", ord(text[0]))
    for path in root.rglob("*.*"):
        os.utime(path, (0, 0))


def trained_on(root: Path, name: str = "X") -> str:
    data = PairData(root=str(root), sources={name: PairSource()}, verify_images=False)
    return load_train_subset(data, name)[0].target.text


def evaluated_on(root: Path) -> str:
    source = EvalSource(EvalData(root=str(root)))
    return next(source.rows(None, "X", "original", None, ("pos_text",)).read())["pos_text"]


def surveyed(picture: Path) -> str:
    return survey([Pair(Item("q"), Item(images=(str(picture),)))], {"X": 1}, 1).content


READ: list[Callable[[Path], object]] = [
    trained_on,
    partial(trained_on, name="J"),
    evaluated_on,
    lambda root: read_texts([str(root / "texts.parquet")], ["text"]).texts,
    lambda root: image_digest(str(root / "a.bmp")),
    lambda root: item_key(Item(images=(str(root / "a.bmp"),))),
    lambda root: surveyed(root / "a.bmp"),
]  # fmt: skip


@pytest.mark.parametrize("read", READ)
def test_a_release_under_a_kept_time_stamp_is_read(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cache that could be written, which is why nothing old can be read."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/dev/null/no")
    found = []
    for text in ("old", "new"):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        released(tmp_path / "release", text)
        found.append(read(tmp_path / "release"))
    assert found[0] != found[1]


def test_a_later_process_reads_the_release_that_is_there(tmp_path: Path) -> None:
    code = (
        "import sys; from unime.data.tables import load_table;"
        "rows = load_table(sys.argv[1], 'X', 'original', None, ('pos_text',), ());"
        "print([row['pos_text'] for row in rows.read()])"
    )
    said = []
    for text in ("old", "new"):
        released(tmp_path / "release", text)
        command = [sys.executable, "-c", code, str(tmp_path / "release")]
        cache = {"HF_HOME": str(tmp_path / "cache"), "HOME": "/dev/null/no"}
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True, check=True
        )
        said.append(done.stdout)
    assert said == [f"{[text] * 3}\n" for text in ("old", "new")]


def test_a_file_that_loses_rows_while_it_is_read_is_named(tmp_path: Path) -> None:
    released(tmp_path, "old")
    table = load_table(str(tmp_path), "X", "original", None, ("qry",), ())
    write_parquet(tmp_path / "X" / SHARD, [{"qry": "new"}])
    with pytest.raises(DataError, match=f"{SHARD}: cannot read it: 1 rows, where there were 3"):
        list(table.read())
    (tmp_path / "X" / SHARD).write_bytes(b"")
    with pytest.raises(DataError, match=f"{SHARD}: cannot read it: "):
        list(table.read())


def test_a_kept_picture_that_is_damaged_is_written_again(tmp_path: Path) -> None:
    source = EvalSource(EvalData(cache=str(tmp_path)))
    path = Path(source.keep_image({"bytes": picture_bytes(1)}))
    path.write_bytes(bytes(path.stat().st_size))
    assert source.keep_image({"bytes": picture_bytes(1)}) == str(path)
    assert path.read_bytes() == picture_bytes(1)


def test_no_more_of_a_table_is_in_memory_than_is_looked_at(tmp_path: Path) -> None:
    size, groups = 1 << 18, 40
    rows = pa.table({"image": [bytes(size - 1) + bytes([n]) for n in range(groups)]})
    path = tmp_path / "test.parquet"
    pq.write_table(rows, path, row_group_size=1, compression=None, use_dictionary=False)
    del rows
    before = pa.total_allocated_bytes()
    table = load_table(str(tmp_path), None, "test", None, ("image",), ())
    taken = [pa.total_allocated_bytes() - before for _ in table.read(at_once=4)]
    assert len(taken) == groups and max(taken) < 8 * size
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("numbers", [None, [], [0], [2, 3, 9], range(4), range(2, 10)])
def test_chosen_rows_are_read_in_their_order(
    tmp_path: Path, numbers: list[int] | None, held: bool
) -> None:
    shards = [(f"test-0000{n}-of-00002.parquet", range(5 * n, 5 * n + 5)) for n in range(2)]
    for name, values in shards:
        write_parquet(tmp_path / name, [{"a": value} for value in values])
    table = load_table(str(tmp_path), None, "test", None, ("a",), ())
    table = table.held() if held else table
    for at_once in (1, 3, 100):
        found = list(table.read(numbers, at_once))
        assert [row["a"] for row in found] == list(range(10) if numbers is None else numbers)
        assert [row.where for row in found] == [table.where(row["a"]) for row in found]
    if isinstance(table, HeldTable):
        assert [table[n]["a"] for n in (9, 0, 5)] == [9, 0, 5]


def test_rows_of_the_hub_are_those_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"image": {"bytes": picture_bytes(n), "path": None}, "text": [f"{n}"]} for n in range(3)
    ]
    features = datasets.Features({"image": datasets.Image(), "text": [datasets.Value("string")]})
    found = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: found)
    table = load_table("some/where", None, "test", None, ("image", "text"), ("more",))
    assert [row.values for row in table.read()] == rows and len(table) == 3
    assert table.where(2) == "some/where test, row 2"
