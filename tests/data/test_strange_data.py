"""Data that a stranger made, or that change under a kept time stamp: what is read is what is there,
below its root, and nothing is waited for: ./launch.sh test tests/data/test_strange_data.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.miniatures.captions import URBAN1K, write_urban1k
from eval.miniatures.mmeb import picture_bytes, write_json, write_parquet, write_picture
from eval.miniatures.videos import write_video
from eval.tasks.long_captions import Urban1k
from eval.tasks.sources import EvalSource
from eval.tasks.suites import load_suite
from eval.tasks.video_classification import read_labels
from tests.support.paths import ROOT
from unime.config import EvalData, PairData, PairSource, ReportConfig, build_config
from unime.data.json_files import json_items
from unime.data.mmeb_train import load_train_subset
from unime.data.split_files import split_files
from unime.data.survey import survey
from unime.data.tables import HeldTable, load_table
from unime.data.texts import read_texts
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair, image_digest, item_key, video_frames

SHARD = "original-00000-of-00001.parquet"
SECONDS = 20  # that a look at small data may take at most


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# A file that changes -----------------------------------------------------------------------------


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


# Links -------------------------------------------------------------------------------------------


def linked(link: Path, to: Path) -> None:
    """The file or folder goes elsewhere, and a link takes its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(link, to)
    link.symlink_to(to)


def strange(root: Path) -> Path:
    write_picture(root / "pictures/a.png", 1)
    write_video(root / "videos/v", 1, 3)
    write_parquet(root / "X" / SHARD, [{"a": 1}])
    write_json(root / "org/set/items.json", [{"a": 1}])
    write_parquet(root / "org/set/test.parquet", [{"a": 1}])
    (root / "org/set/README.md").write_text("---\nlicense: mit\n---\n")
    write_urban1k(root, 2)
    return root


def read_all(root: Path, follow_links: bool = False) -> None:
    source = EvalSource(EvalData(root=str(root), follow_links=follow_links))
    source.images().find("pictures/a.png")
    source.images("below").find(str(root / "pictures/a.png"))
    source.frames("videos/v")
    assert len(source.rows(None, "X", "original", None, ("a",))) == 1
    assert len(source.rows("org/set", None, "test", None, ("a",))) == 1
    assert list(json_items(source.file("org/set", "items.json", None))) == [{"a": 1}]
    assert len(Urban1k(direction="i2t", repository=URBAN1K).read("", source).queries) == 2


LINKS = [
    "pictures/a.png", "pictures", "videos", "videos/v", "videos/v/frame_1.png", f"X/{SHARD}", "X",
    "org", "org/set", "org/set/items.json", "org/set/test.parquet", "org/set/README.md",
    f"{URBAN1K}/caption/8.txt", f"{URBAN1K}/image/8.jpg", f"{URBAN1K}/caption",
]  # fmt: skip


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_nowhere_else_unless_it_may(tmp_path: Path, link: str) -> None:
    root = strange(tmp_path / "root")
    assert (root / link).exists(), sorted(root.rglob("*"))
    linked(root / link, tmp_path / "private" / Path(link).name)
    with pytest.raises(DataError, match="a link leads out of .*; data.follow_links=true"):
        read_all(root)
    read_all(root, follow_links=True)


def test_links_of_training_rows_lead_nowhere_else(tmp_path: Path) -> None:
    released(tmp_path / "root", "old")
    linked(tmp_path / "root/X", tmp_path / "other/X")
    with pytest.raises(DataError, match="a link leads out of"):
        trained_on(tmp_path / "root")
    row = {"qry": "", "qry_image_path": "a.bmp", "pos_text": "a", "pos_image_path": ""}
    write_parquet(tmp_path / "root/P" / SHARD, [row])
    linked(tmp_path / "root/a.bmp", tmp_path / "private.bmp")
    with pytest.raises(DataError, match="'qry_image_path': .*a.bmp: a link leads out of"):
        trained_on(tmp_path / "root", "P")
    data = PairData(root=str(tmp_path / "root"), sources={"P": PairSource()}, follow_links=True)
    assert len(load_train_subset(data, "P")) == 1


def test_roots_may_be_links_and_links_inside_of_them_are_followed(tmp_path: Path) -> None:
    root = strange(tmp_path / "disk/root")
    for link in LINKS[:3] + LINKS[5:]:
        if not (root / link).is_symlink() and "org" not in link and URBAN1K not in link:
            linked(root / link, root / "kept" / link)
    (tmp_path / "root").symlink_to(root)
    read_all(tmp_path / "root")


def test_the_hubs_cache_is_links_itself(tmp_path: Path) -> None:
    repository = tmp_path / "hub/datasets--org--set"
    root = strange(repository / "snapshots/0123abc")
    files = [path for path in root.rglob("*") if path.is_file()]
    for number, path in enumerate(files):
        linked(path, repository / f"blobs/{number}")
    read_all(root)
    (root / "pictures/a.png").unlink()
    (root / "pictures/a.png").symlink_to(write_picture(tmp_path / "hub/datasets--b/a.png", 1))
    with pytest.raises(DataError, match="a link leads out of"):
        read_all(root)


# Pipes and folders -------------------------------------------------------------------------------


def in_place_of(make: Callable[[Path], None], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    return path


PIPES: dict[str, Callable[[Path], object]] = {
    "pictures/a.png": lambda root: read_all(root),
    "videos/v/frame_1.png": lambda root: video_frames(root / "videos/v"),
    "videos/v/frame_1.jpg": lambda root: read_all(root),
    "lone.png": lambda root: image_digest(str(root / "lone.png")),
    "one.png": lambda root: surveyed(root / "one.png"),
    f"X/{SHARD}": read_all,
    "org/set/items.json": read_all,
    "org/set/test.parquet": read_all,
    "org/set/README.md": read_all,
    f"{URBAN1K}/caption/8.txt": read_all,
    f"{URBAN1K}/image/8.jpg": read_all,
    "J/test.json": lambda root: load_table(str(root), "J", "test", None, ("a",), ()),
    "J/test.jsonl": lambda root: load_table(str(root), "J", "test", None, ("a",), ()),
    "texts.jsonl": lambda root: read_texts([str(root / "texts.jsonl")], ["a"]),
    "texts.csv": lambda root: read_texts([str(root / "texts.csv")], ["a"]),
    "texts.parquet": lambda root: read_texts([str(root / "texts.parquet")], ["a"]),
    "labels.txt": lambda root: read_labels(str(root / "labels.txt")),
    "suite.yaml": lambda root: load_suite(str(root / "suite.yaml")),
    "config.yaml": lambda root: build_config(ReportConfig, root / "config.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", PIPES)
def test_what_is_no_file_is_named_and_not_waited_for(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    strange(tmp_path)
    in_place_of(make, tmp_path / name)
    with pytest.raises((DataError, ConfigError)) as error:
        PIPES[name](tmp_path)
    assert Path(name).stem in str(error.value)


# Small inputs, huge work -------------------------------------------------------------------------


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


def test_texts_of_few_values_are_texts(tmp_path: Path) -> None:
    column = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"a": column}), tmp_path / "test-00000-of-00002.parquet")
    pq.write_table(pa.table({"a": ["z"]}), tmp_path / "test-00001-of-00002.parquet")
    table = load_table(str(tmp_path), None, "test", None, ("a",), ())
    assert [row["a"] for row in table.read()] == ["x", "y", "x", "z"]
