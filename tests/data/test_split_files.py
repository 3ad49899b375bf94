"""Which files of a downloaded repository are read, in the layouts that repositories have.

./launch.sh test tests/data/test_split_files.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.miniatures.mmeb import write_json, write_parquet
from eval.tasks.sources import EvalSource
from unime.config import EvalData
from unime.data.split_files import split_files
from unime.data.tables import load_table
from unime.data.texts import read_texts
from unime.errors import DataError

ROW = [{"a": 1}]
SHARD = "test-00000-of-00001.parquet"


def make(root: Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        write = write_parquet if path.endswith(".parquet") else write_json
        write(root / path, [{"a": number, "file": path}])


def files(root: Path, subset: str | None = None, split: str = "test") -> list[str]:
    return [str(file.relative_to(root)) for file in split_files(root, subset, split)]


@pytest.mark.parametrize(
    ("paths", "subset", "expected"),
    [
        ([f"X/{SHARD}", f"Y/{SHARD}"], "X", [f"X/{SHARD}"]),
        ([f"data/{SHARD}", "data/train-00000-of-00001.parquet"], None, [f"data/{SHARD}"]),
        ([SHARD, "train-00000-of-00001.parquet"], None, [SHARD]),
        ([f"only_test/{SHARD}", "other/val-00000-of-00001.parquet"], None, [f"only_test/{SHARD}"]),
        (["data/test.jsonl", "data/old_test.jsonl", "data/test2.jsonl"], None, ["data/test.jsonl"]),
        (["X/test.json"], "X", ["X/test.json"]),
        (["data/test-00000-of-00001-0123456789abcdef.parquet"], None,
         ["data/test-00000-of-00001-0123456789abcdef.parquet"]),
        (["data/test-00001-of-00002.parquet", "data/test-00000-of-00002.parquet"], None,
         ["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"]),
    ],
)  # fmt: skip
def test_layouts_by_name(
    tmp_path: Path, paths: list[str], subset: str | None, expected: list[str]
) -> None:
    make(tmp_path, *paths)
    assert files(tmp_path, subset) == expected


def declare(root: Path, configs: str) -> None:
    (root / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{configs}---\n# A set\n---\n")


def test_what_the_readme_declares_comes_first(tmp_path: Path) -> None:
    make(tmp_path, "a_test.json", f"data/{SHARD}", "json/x.json", "json/y.json", f"Old/{SHARD}")
    declare(
        tmp_path,
        "- config_name: default\n  data_files:\n  - split: test\n    path: a_test.json\n"
        "- config_name: x\n  data_files: json/x.json\n"
        "- config_name: two\n  data_files:\n  - split: test\n    path: [json/y.json, json/x.json]\n"
        "- config_name: old\n  data_dir: Old\n"
        "- config_name: pattern\n  data_files:\n  - split: test\n    path: data/test-*\n",
    )
    assert files(tmp_path) == ["a_test.json"]
    assert files(tmp_path, "default") == ["a_test.json"]
    assert files(tmp_path, "x", "train") == ["json/x.json"]  # no split is named: train
    assert files(tmp_path, "two") == ["json/y.json", "json/x.json"]
    assert files(tmp_path, "old") == [f"Old/{SHARD}"]
    assert files(tmp_path, "pattern") == [f"data/{SHARD}"]
    assert files(tmp_path, "Old") == [f"Old/{SHARD}"]  # not declared: the folder
    with pytest.raises(DataError, match="README.md: configuration 'x' has no split 'test'; it has"):
        files(tmp_path, "x")


def test_the_only_configuration_is_the_default(tmp_path: Path) -> None:
    make(tmp_path, f"videomme/{SHARD}", f"another/{SHARD}")
    declare(
        tmp_path,
        "- config_name: videomme\n  data_files:\n  - split: test\n    path: videomme/test-*\n",
    )
    assert files(tmp_path) == [f"videomme/{SHARD}"]


BAD = [
    ([f"X/{SHARD}", f"Y/{SHARD}"], "Z", "no subset 'Z'; subsets with split 'test': X, Y"),
    ([f"X/{SHARD}", f"Y/{SHARD}"], None, "split 'test' is in several folders, name a subset: X, Y"),
    (["data/train-00000-of-00001.parquet", "data/val.jsonl"], None,
     "data: no split 'test'; it has train, val"),
    (["data/test.csv"], None, "data: no split 'test'; it has no .parquet, .jsonl, .json file"),
    (["data/test-00001-of-00002.parquet"], None, "incomplete split 'test': test-00001-of-00002.p"),
    ([f"data/{SHARD}", "data/test-00000-of-00002.parquet"], None, "incomplete split 'test': "),
    ([f"data/{SHARD}", "data/test-00000-of-00001-abc.parquet"], None, "incomplete split 'test': "),
    ([f"data/{SHARD}", "data/test.jsonl"], None,
     "split 'test' is there more than once: test-00000-of-00001.parquet, test.jsonl"),
    (["data/test.json", "data/test.jsonl"], None, "more than once: test.json, test.jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("paths", "subset", "message"), BAD)
def test_what_is_not_clear_is_not_read(
    tmp_path: Path, paths: list[str], subset: str | None, message: str
) -> None:
    make(tmp_path, *paths)
    with pytest.raises(DataError) as error:
        files(tmp_path, subset)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("data_files: lost.json", "README.md: configuration 'a': there is no 'lost.json'"),
        ("data_files: ../x.json", "README.md: configuration 'a': data_files: '../x.json' leaves"),
        ("data_files: /x.json", "README.md: configuration 'a': data_files: '/x.json' leaves"),
        ("data_dir: ../out", "README.md: configuration 'a': data_dir: '../out' leaves the folder"),
        ("data_dir: /out", "README.md: configuration 'a': data_dir: '/out' leaves the folder"),
        ("data_dir: 3", "README.md: configuration 'a': data_dir: got 3, expected a path"),
        ("data_files: ''", "README.md: configuration 'a': data_files: got '', expected a path"),
        ("data_files: [1]", "README.md: configuration 'a': data_files: got 1, expected a path"),
        ("data_files:", "README.md: configuration 'a': data_files: got None, expected a path"),
        ("data_files: .", "README.md: configuration 'a': data_files: "),
        ("data_files: '**x'", "README.md: configuration 'a': "),
        ("data_files: rows.csv", "rows.csv: expected one of .parquet, .jsonl"),
        ("data_dir: lost", "lost: no such folder"),
        ("data_dir: [", "README.md: cannot read what it declares: "),
    ],
)
def test_bad_declarations(tmp_path: Path, declared: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    declare(tmp_path, f"- config_name: a\n  {declared}\n")
    with pytest.raises(DataError, match=re.escape(message)):
        files(tmp_path, "a", "train")


@pytest.mark.parametrize("out", ["../out", "/out", "x/../../out", "C:/out", "..\\out"])
def test_nothing_outside_of_the_folders_is_read(tmp_path: Path, out: str) -> None:
    root = tmp_path / "root"
    make(root, f"data/{SHARD}")
    make(tmp_path, f"out/{SHARD}")
    named = out if out != "/out" else str(tmp_path / "out")
    said = re.escape(f"subset: {named!r} leaves the folder")
    with pytest.raises(DataError, match=said):
        files(root, named)
    source = EvalSource(EvalData(root=str(root)))
    said = re.escape(f"repository: {named!r} leaves the folder")
    with pytest.raises(DataError, match=said):
        source.rows(named, None, "test", None, ("a",))
    with pytest.raises(DataError, match=re.escape(f"file: {named!r} leaves the folder")):
        source.file("data", named, None)


def test_a_readme_that_declares_nothing(tmp_path: Path) -> None:
    make(tmp_path, f"data/{SHARD}")
    for text in ("# A set\n", *(f"---\n{y}\n---\n" for y in ("license: mit", "- a", "configs: 3"))):
        (tmp_path / "README.md").write_text(text)
        assert files(tmp_path) == [f"data/{SHARD}"]


def table(root: Path, *columns: str, optional: tuple[str, ...] = ()):
    return load_table(str(root), None, "test", None, columns, optional)


@pytest.mark.parametrize("name", ["test.jsonl", "test.json"])
def test_json_rows(tmp_path: Path, name: str) -> None:
    """Other columns may be of any kind, and a row may lack one."""
    rows = [{"a": "x", "b": [1], "c": 1}, {"a": "y", "c": "two", "d": 0.5}]
    write_json(tmp_path / "data" / name, rows)
    found = table(tmp_path, "a", optional=("b", "e"))
    assert [row.values for row in found.read()] == [{"a": "x", "b": [1]}, {"a": "y", "b": None}]
    assert found.where(1) == f"{tmp_path / 'data' / name}, row 1"
    with pytest.raises(DataError, match="no column 'z'; it has 'a', 'b', 'c', 'd'"):
        table(tmp_path, "z")
    with pytest.raises(DataError, match=f"{name}, row 1, column 'c': got 'two', unlike 1 in /"):
        table(tmp_path, "c")


def test_json_shards_are_one_table(tmp_path: Path) -> None:
    for number in range(2):
        write_json(tmp_path / f"test-0000{number}-of-00002.jsonl", [{"a": number}, {"a": number}])
    found = table(tmp_path, "a")
    assert [row["a"] for row in found.read()] == [0, 0, 1, 1]
    assert found.where(3).endswith("test-00001-of-00002.jsonl, row 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": \n', "test.jsonl, line 2: cannot read it: "),
        ('{"a": 1}\n3\n', "test.jsonl, line 2: got 3, expected an object"),
        ("[3]", "test.jsonl: got 3, expected an object"),
        ("[", "test.jsonl: broken JSON at ''"),
        ("\n", "test.jsonl: no rows"),
        ("[]", "test.jsonl: no rows"),
    ],
)
def test_bad_json(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "test.jsonl").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        table(tmp_path, "a")


def test_a_line_separator_inside_of_a_text_ends_no_row(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"a": "one\u2028line"}\n{"a": "two"}\n', encoding="utf-8")
    assert [row["a"] for row in table(tmp_path, "a").read()] == ["one\u2028line", "two"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, float("nan"), "b"], "row 2, column 'a': got nan, unlike 'a' in "),
        (["a", ["b"]], "row 1, column 'a': got ['b'], unlike 'a' in "),
        ([["a"], ["b", 3]], "row 1, column 'a': got ['b', 3], unlike ['a'] in "),
        ([None, 2**70], f"row 1, column 'a': got {2**70}"),
    ],
)
def test_a_value_unlike_the_others_is_named(
    tmp_path: Path, values: list[Any], message: str
) -> None:
    write_json(tmp_path / "test-00000-of-00002.jsonl", [{"a": None}])
    write_json(tmp_path / "test-00001-of-00002.jsonl", [{"a": value} for value in values])
    with pytest.raises(DataError, match=re.escape(f"test-00001-of-00002.jsonl, {message}")):
        table(tmp_path, "a")


def test_half_a_character_is_a_question_mark(tmp_path: Path) -> None:
    lines = r'{"a": "half \ud83d", "b": ["\udc00", "\ud83d\ude00"]}'
    (tmp_path / "test.jsonl").write_text(lines)
    assert next(table(tmp_path, "a", "b").read()).values == {
        "a": "half ?",
        "b": ["?", "\U0001f600"],
    }


# Parquet shards ----------------------------------------------------------------------------------

SHARDS = [  # the same table: rows of a text, perhaps a list of texts, and a column that differs
    {"a": ["x", "y"], "b": pa.nulls(2), "extra": [1, 2]},
    {"a": ["z"], "extra": [["other"]]},
    {"a": pa.array([], pa.string()), "b": pa.array([], pa.int64())},
    {"a": pa.array(["w"], pa.large_string()), "b": [["n"]]},
    {"a": pa.nulls(1), "b": pa.array([[]], pa.list_(pa.null()))},
]


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 3, 0, 4, 1], [1, 2, 4, 0, 3]]
)
def test_the_order_of_shards_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    for place, number in enumerate(order):
        file = tmp_path / f"test-{place:05}-of-{len(order):05}.parquet"
        pq.write_table(pa.table(SHARDS[number]), file)
    found = table(tmp_path, "a", optional=("b", "c"))
    rows = [[("x", None), ("y", None)], [("z", None)], [], [("w", ["n"])], [(None, [])]]
    expected = [row for number in order for row in rows[number]]
    assert [(row["a"], row["b"]) for row in found.read()] == expected
    last = order[-1] if rows[order[-1]] else order[-2]
    assert f"-of-00005.parquet, row {len(rows[last]) - 1}" in found.where(len(expected) - 1)


def test_a_shard_whose_first_group_of_rows_is_empty(tmp_path: Path) -> None:
    rows = pa.table({"a": ["x", "y"]})
    with pq.ParquetWriter(tmp_path / "test.parquet", rows.schema) as writer:
        for part in (rows.slice(0, 0), rows):
            writer.write_table(part)
    assert [row["a"] for row in table(tmp_path, "a").read()] == ["x", "y"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"a": [["x"]]}, "Field a has incompatible types: string vs list<"),
        ({"b": ["x"]}, ": no column 'a'; it has 'b'"),
        (None, ": cannot read it: "),
    ],
)
def test_a_shard_that_does_not_fit_is_named(
    tmp_path: Path, second: dict[str, Any] | None, message: str
) -> None:
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "test-00000-of-00002.parquet")
    (tmp_path / "test-00001-of-00002.parquet").write_text("no parquet")
    if second is not None:
        pq.write_table(pa.table(second), tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(DataError, match="00001-of-00002.parquet") as error:
        table(tmp_path, "a")
    assert message in str(error.value)


def not_utf8(path: Path, row: int, listed: bool = False) -> None:
    """A table of five texts, or lists of one, one of which is Latin-1."""
    texts = pa.array([b"caf\xe9" if n == row else b"text" for n in range(5)]).view(pa.string())
    column = pa.ListArray.from_arrays(list(range(6)), texts) if listed else texts
    pq.write_table(pa.table({"a": column}), path)


@pytest.mark.parametrize("listed", [False, True])
def test_a_text_in_another_encoding_is_named(tmp_path: Path, listed: bool) -> None:
    not_utf8(tmp_path / "test.parquet", 3, listed)
    with pytest.raises(DataError, match="test.parquet, row 3, column 'a': no UTF-8 text"):
        list(table(tmp_path, "a").read())
    if not listed:
        with pytest.raises(DataError, match="test.parquet, row 3, column 'a': no UTF-8 text"):
            read_texts([str(tmp_path / "test.parquet")], ["a"])


def test_no_rows_in_any_shard(tmp_path: Path) -> None:
    for number in range(2):
        empty = pa.table({"a": pa.array([], pa.string())})
        pq.write_table(empty, tmp_path / f"test-0000{number}-of-00002.parquet")
    with pytest.raises(DataError, match="test-00000-of-00002.parquet: no rows"):
        table(tmp_path, "a")
