"""Attacks on data folders: Parquet, and the paths of pictures in rows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.miniatures.mmeb import write_picture
from eval.page.data_check import write_check_page
from tests.attacks.damage import Deeds, cut, flipped, link, not_a_file, remove, renamed, write
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from unime.config import DataCheck, PairData, PairSource
from unime.data.checks.check import check_data
from unime.data.datasets import PairDataset

TABLE, LINES = "data/A/original-00000-of-00001.parquet", "data/B/original.jsonl"
COUNT = 6
PICTURE = "data/images/0.png"
ROWS = [
    {
        "qry": f"question {number}",
        "qry_image_path": f"images/{number}.png" if number < 3 else "",
        "pos_text": f"answer {number} " + "long " * 40,
        "pos_image_path": "",
    }
    for number in range(COUNT)
]
Pairs = list[list[Any]]


def build() -> None:
    for number in range(3):
        write_picture(Path(f"data/images/{number}.png"), number)
    write_picture(Path("outside/picture.png"), 9)
    write_table(ROWS)
    write_lines(ROWS)
    write("truth.json", json.dumps(pairs("A")))


def write_table(rows: Any, **how: Any) -> None:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    Path(TABLE).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, TABLE, **how)


def write_lines(rows: list[dict[str, Any]]) -> None:
    write(LINES, "".join(f"{json.dumps(row)}\n" for row in rows))


def pairs(name: str = "A", split: str = "original") -> Pairs:
    """The texts and pictures of all rows, as training reads them."""
    found = PairDataset.load(PairData(root="data", sources={name: PairSource()}, split=split), 0)
    return [[p.query.text, list(p.query.images), p.target.text] for p in found]


def checked(name: str = "A") -> list[str]:
    """What a check says of the rows, and what it writes."""
    data = PairData(root="data", sources={name: PairSource()})
    report = check_data(data, DataCheck(num_workers=0))
    report.write(Path("check"))
    write_check_page(report, "data", Path("check/check.html"))
    return [fault.message for task in report.tasks for fault in task.faults]


def other_rows(found: Pairs) -> str | None:
    """Rows that are not those which were written, or whose pictures lie elsewhere."""
    truth = json.loads(Path("truth.json").read_text())
    own, right = (
        [[query, [os.path.basename(path) for path in images], answer]
         for query, images, answer in rows]
        for rows in (found, truth)
    )  # fmt: skip
    return leaves(found) or (f"other rows: {str(own)[:200]}" if own != right else None)


def leaves(found: Pairs) -> str | None:
    """A picture that lies elsewhere."""
    places = [os.path.realpath(path) for _, images, _ in found for path in images]
    out = [place for place in places if not Path(place).is_relative_to(Path("data").resolve())]
    return f"reads {out[0]}" if out else None


def column(name: str, values: Any, kind: pa.DataType | None = None) -> Deed:
    """The table with a column of other values."""

    def act() -> None:
        table = pa.Table.from_pylist(ROWS)
        array = pa.array(values, kind) if not isinstance(values, pa.Array) else values
        write_table(table.set_column(table.schema.get_field_index(name), name, array))

    return act


def no_utf_8() -> None:
    raw = pa.array([b"\xff\xfe" + bytes([n]) for n in range(COUNT)], pa.binary())
    column("qry", pa.Array.from_buffers(pa.string(), COUNT, raw.buffers()))()


def described(metadata: dict[str, str]) -> Deed:
    return lambda: write_table(pa.Table.from_pylist(ROWS).replace_schema_metadata(metadata))


def footer(length: bytes) -> Deed:
    def act() -> None:
        content = Path(TABLE).read_bytes()
        write(TABLE, content[:-8] + length + content[-4:])

    return act


def bomb(rows: int, size: int) -> Deed:
    """A small file of many long and equal texts."""

    def act() -> None:
        places = pa.array([0] * rows, pa.int32())
        long = pa.DictionaryArray.from_arrays(places, pa.array(["x" * size]))
        empty = pa.DictionaryArray.from_arrays(places, pa.array([""]))
        names = list(ROWS[0])
        columns = [long if name in ("qry", "pos_text") else empty for name in names]
        write_table(pa.table(dict(zip(names, columns, strict=True))))

    return act


def changed_in_place() -> None:
    """Read once, then the same size and time with other rows."""
    pairs()
    before = os.stat(TABLE)
    write_table([row | {"qry": row["qry"].replace("question", "QUESTION")} for row in ROWS])
    os.utime(TABLE, ns=(before.st_atime_ns, before.st_mtime_ns))


def changed_truth(found: Pairs) -> str | None:
    return None if all("QUESTION" in query for query, _, _ in found) else "the rows from before"


def nested(depth: int) -> Any:
    value: Any = ["x"]
    for _ in range(depth):
        value = [value]
    return value


SIX = range(COUNT)
PARQUET: Deeds = {
    **cut(TABLE, 9),
    **not_a_file(TABLE),
    "gone": lambda: remove(TABLE),
    "footer-huge": footer(b"\xff\xff\xff\x7f"),
    "footer-minus": footer(b"\xff\xff\xff\xff"),
    "footer-none": footer(b"\0\0\0\0"),
    "magic-alone": lambda: write(TABLE, b"PAR1PAR1"),
    "csv-inside": lambda: write(TABLE, "qry,pos_text\na,b\n"),
    "no-rows": lambda: write_table(pa.Table.from_pylist(ROWS)[:0]),
    "no-columns": lambda: write_table(pa.table({})),
    "column-missing": lambda: write_table(pa.Table.from_pylist(ROWS).drop_columns("pos_text")),
    "column-twice": lambda: write_table(
        pa.Table.from_pylist(ROWS).append_column("qry", pa.array(["other"] * COUNT))
    ),
    "utf-8-broken": no_utf_8,
    "integers": column("qry", list(SIX)),
    "booleans": column("qry", [True] * COUNT),
    "structs": column("qry", [{"a": "b"}] * COUNT),
    "lists": column("qry", [["a"]] * COUNT),
    "binary": column("qry", [b"a"] * COUNT),
    "nulls": column("qry", [None] * COUNT, pa.string()),
    "null-type": column("qry", [None] * COUNT, pa.null()),
    "path-nulls-text-nulls": column("pos_text", [None] * COUNT, pa.string()),
    "nested": column("qry", [nested(90)] * COUNT),
    "nan": column("qry", [float("nan")] * COUNT),
    "row-group-lies": lambda: write_table(ROWS, row_group_size=1),
}
METADATA: Deeds = {
    "says-image": described({"huggingface": json.dumps({"info": {"features": {
        "qry": {"_type": "Image"}}}})}),
    "says-class": described({"huggingface": json.dumps({"info": {"features": {
        "qry": {"_type": "os.system"}}}})}),
    "says-nothing": described({"huggingface": "{"}),
    "says-deep": described({"huggingface": "[" * 50_000}),
    "schema-garbage": described({"ARROW:schema": "AAAA"}),
    "large-text": column("qry", [row["qry"] for row in ROWS], pa.large_string()),
    "dictionary": column("qry", pa.array([row["qry"] for row in ROWS]).dictionary_encode()),
    "nul": column("pos_text", [row["pos_text"] for row in ROWS]),
}  # fmt: skip
FLIPPED: Deeds = {**flipped(TABLE, 14), "bomb": bomb(300_000, 20_000), "long-cell": bomb(7, 10**8)}
PATHS = {
    "dots": "../outside/picture.png",
    "dots-inside": "images/../../../outside/picture.png",
    "absolute": "{outside}/picture.png",
    "file-address": "file://{outside}/picture.png",
    "address": "http://127.0.0.1:9/x.png",
    "backslashes": "..\\..\\outside\\picture.png",
    "drive": "C:\\x.png",
    "home": "~/x.png",
    "nul": "images/\0.png",
    "dot": ".",
    "slash": "/",
    "folder": "images",
    "long": "x" * 100_000,
    "device": "/dev/zero",
    "process": "/proc/self/environ",
    "surrogate": "images/\udcff.png",
    "lines": "images/0.png\n../outside/picture.png",
}


def pathed(path: str) -> Deed:
    def act() -> None:
        full = path.format(outside=os.path.abspath("../outside"))
        write_lines([row | {"qry_image_path": full} for row in ROWS])

    return act


LINKED: Deeds = {
    "linked-picture": lambda: link(PICTURE, "../outside/picture.png"),
    "linked-secret": lambda: link(PICTURE, "../outside/secret.txt"),
    "linked-folder": lambda: (
        shutil.copytree("data/images", "../here/kept"),
        shutil.copyfile("../outside/picture.png", "kept/0.png"),
        link("data/images", "kept"),
    ),
    "linked-device": lambda: link(PICTURE, "/dev/zero"),
    **not_a_file(PICTURE),
}


def attacks() -> list[Attack]:
    table, beside = ("data/A",), ("data/B", "original.jsonl", "images")
    paths = {name: pathed(path) for name, path in PATHS.items()} | LINKED
    return [
        *each(
            {"control": nothing} | renamed("parquet", PARQUET | METADATA), pairs, table, other_rows
        ),
        *each(renamed("parquet", FLIPPED), pairs, table),
        Attack("parquet-changed-in-place", changed_in_place, pairs, table, changed_truth),
        *each(renamed("path", paths), lambda: pairs("B"), beside, leaves),
        *each({"control-of-checked": nothing} | renamed("checked", PARQUET | METADATA), checked),
        *each(renamed("checked-path", paths), lambda: checked("B")),
    ]


AREA = Area(
    "tables",
    build,
    attacks,
    ("path-dots", "parquet-original-00000-of-00001.parquet-cut-3", "checked-path-dots"),
)
