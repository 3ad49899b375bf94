"""Small files that would be huge work, and damaged ones: refused in a line, soon.

./launch.sh test tests/data/test_strange_data.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.miniatures.mmeb import write_json, write_parquet
from eval.tasks.suites import load_suite
from unime.config import ReportConfig, build_config
from unime.data.split_files import split_files
from unime.data.tables import HeldTable, load_table
from unime.data.texts import read_texts
from unime.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("soon")


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def references(levels: int) -> str:
    lines = [f'- "${{models[{n + 1}]}}${{models[{n + 1}]}}"' for n in range(levels)]
    return "\n".join(["models:", *lines, "- x"]) + "\n"


HUGE_YAML = {
    "aliases": (bomb(9), "more than 100000 values"),
    "merges": (merges(12), "more than 100000 values"),
    "circle": ("a: &a [*a]\n", "more than 100000 values"),
    "references": (references(15), "more than 20 times"),
    "long": ("a: " + "x" * 600_000 + "\n", "more than 524288 characters"),
    "latin-1": ("a: caf\xe9\n".encode("latin-1"), "cannot read it: 'utf-8' codec|cannot read what"),
    "deep": ("a: " + "[" * 100_000 + "\n", "no YAML: |without end"),
}


@pytest.mark.parametrize("kind", HUGE_YAML)
@pytest.mark.parametrize("place", ["README.md", "suite.yaml", "config.yaml"])
def test_yaml_that_stands_for_more_than_settings_is_refused(
    tmp_path: Path, place: str, kind: str
) -> None:
    text, message = HUGE_YAML[kind]
    content = text if isinstance(text, bytes) else text.encode()
    readme = place == "README.md"
    (tmp_path / place).write_bytes(b"---\n" + content + b"---\n" if readme else content)
    with pytest.raises((ConfigError, DataError), match=message) as error:
        if readme:
            split_files(tmp_path, None, "test")
        elif place == "suite.yaml":
            load_suite(str(tmp_path / place))
        else:
            build_config(ReportConfig, tmp_path / place)
    assert place in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["**/" * 12 + "*.parquet"], "at most one [*][*]"),
        ([f"*{n}" for n in range(101)], "more than 100 patterns"),
        (["**/nothing"], "there is no '[*][*]/nothing'"),
        (["*/" * 20 + "*.parquet"], "there is no"),
        (["a\0b"], "there is no|cannot look for"),
        (["*/a\0b/*"], "there is no|cannot look for"),
    ],
)
def test_patterns_are_looked_for_once(tmp_path: Path, patterns: list[str], message: str) -> None:
    for number in range(20):
        (tmp_path / f"{number}/{number}/{number}").mkdir(parents=True)
        (tmp_path / f"link{number}").symlink_to(tmp_path)
    declared = {"configs": [{"config_name": "a", "data_files": patterns}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(declared)}\n---\n")
    with pytest.raises(DataError, match=message):
        split_files(tmp_path, None, "train")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["a.parquet"]),
        ("**/*.parquet", ["a.parquet", "b/b.parquet", "b/c/c.parquet"]),
        ("b/**", ["b/b.parquet", "b/c/c.parquet"]),
        ("*/*.parquet", ["b/b.parquet"]),
        ("b/**/c.parquet", ["b/c/c.parquet"]),
        ("[ab].parquet", ["a.parquet"]),
    ],
)
def test_patterns_are_those_of_the_hub(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("a.parquet", "b/b.parquet", "b/c/c.parquet", ".git/d.parquet", "b/.e.parquet"):
        write_parquet(tmp_path / name, [{"a": 1}])
    declared = {"configs": [{"config_name": "a", "data_files": pattern}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(declared)}\n---\n")
    found = split_files(tmp_path, None, "train")
    assert [str(path.relative_to(tmp_path)) for path in found] == expected


def test_a_new_key_in_each_row_makes_no_column(tmp_path: Path) -> None:
    rows = [{f"key {number}": number, "a": "x"} for number in range(20_000)]
    write_json(tmp_path / "test.jsonl", rows)
    table = load_table(str(tmp_path), None, "test", None, ("a",), ("b",))
    assert isinstance(table, HeldTable) and table.rows.column_names == ["a"]
    with pytest.raises(DataError, match="no column 'z'; it has 'key 0', 'a', 'key 1', ") as error:
        load_table(str(tmp_path), None, "test", None, ("z",), ())
    assert len(str(error.value)) < 2000


def test_columns_of_a_csv_that_nobody_reads_cost_nothing(tmp_path: Path) -> None:
    header = ",".join(["text", *map(str, range(100_000))])
    (tmp_path / "t.csv").write_text(header + "\n" + "x\n" * 20_000)
    assert len(read_texts([str(tmp_path / "t.csv")], ["text"], distinct=False).texts) == 20_000


@pytest.mark.parametrize("name", ["test.json", "test.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        '{"a": ' + "[" * 600 + "]" * 600 + "}",
        '{"a": ' + "[" * 100_000,
        '{"a": ' + '{"b": ' * 600 + "1" + "}" * 600 + "}",
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "' + "x" * (1 << 25) + '"}',
        '{"a": "x"}\n{"a": ["' + "x" * 100_000 + '"]}',
    ],
)  # fmt: skip
def test_deep_and_long_json_is_named_in_a_line(tmp_path: Path, name: str, content: str) -> None:
    lines = content if name == "test.jsonl" else f"[{content.replace(chr(10), ',')}]"
    (tmp_path / name).write_text(lines)
    with pytest.raises(DataError, match=name) as error:
        load_table(str(tmp_path), None, "test", None, ("a",), ())
    assert len(str(error.value)) < 2000


def test_strange_parquet_is_named_in_a_line(tmp_path: Path) -> None:
    """Column names and nested texts that are no UTF-8, and a column that comes twice."""
    file = tmp_path / "test.parquet"
    bad = pa.array([b"caf\xe9"]).view(pa.string())
    nested = pa.StructArray.from_arrays([bad], ["x"])
    for column in (bad, nested, pa.ListArray.from_arrays([0, 1], nested)):
        pq.write_table(pa.table({"a": column}), file)
        with pytest.raises(DataError, match="row 0, column 'a': no UTF-8 text"):
            list(load_table(str(tmp_path), None, "test", None, ("a",), ()).read())
    pq.write_table(pa.table([["x"], ["y"]], names=["a", "a"]), file)
    with pytest.raises(DataError, match="test.parquet: column 'a' comes twice"):
        load_table(str(tmp_path), None, "test", None, ("a",), ())
    pq.write_table(pa.table({"abcd": ["x"]}), file)
    file.write_bytes(file.read_bytes().replace(b"abcd", b"ab\xe9d"))
    with pytest.raises(DataError, match="test.parquet: "):
        load_table(str(tmp_path), None, "test", None, ("abcd",), ())


def test_damaged_parquet_is_read_or_named_in_a_line(tmp_path: Path) -> None:
    rows = {"a": ["text é"] * 60, "t": [["x", "y"]] * 60, "i": [{"bytes": b"abc"}] * 60}
    file, random = tmp_path / "test.parquet", Random(0)
    wholes = []
    for settings in ({}, {"compression": "zstd", "row_group_size": 10, "data_page_version": "2.0"}):
        pq.write_table(pa.table(rows), file, **settings)
        wholes.append(file.read_bytes())
    outcomes = Counter[str]()
    for _ in range(400):
        content = bytearray(random.choice(wholes))
        place = random.randrange(len(content))
        if random.random() < 0.2:
            del content[place:]
        else:
            content[place : place + random.randrange(1, 9)] = random.randbytes(
                random.randrange(1, 9)
            )
        file.write_bytes(content)
        try:
            list(load_table(str(tmp_path), None, "test", None, ("a", "t"), ("i", "n")).read())
            outcomes["read"] += 1
        except DataError as error:
            assert str(file) in str(error) and "\n" not in str(error) and len(str(error)) < 2000
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200


def test_texts_of_few_values_are_texts(tmp_path: Path) -> None:
    column = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"a": column}), tmp_path / "test-00000-of-00002.parquet")
    pq.write_table(pa.table({"a": ["z"]}), tmp_path / "test-00001-of-00002.parquet")
    table = load_table(str(tmp_path), None, "test", None, ("a",), ())
    assert [row["a"] for row in table.read()] == ["x", "y", "x", "z"]
