"""Attacks on data folders: Parquet, JSON, CSV, what a README declares, paths in rows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


from eval.miniatures.mmeb import write_picture
from tests.attacks.damage import Deeds, cut, flipped, link, not_a_file, remove, write
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from unime.config import PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.texts import read_texts

TABLE, LINES, README = "data/A/original-00000-of-00001.parquet", "data/B/original.jsonl", "data/README.md"
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
    for name in ("data/texts.parquet", "outside/rows.parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), name)
    write("data/texts.jsonl", "".join(f"{json.dumps({'qry': row['qry']})}\n" for row in ROWS))
    write("data/texts.csv", "qry\n" + "".join(f"{row['qry']}\n" for row in ROWS))
    write("truth.json", json.dumps(pairs("A")))
    declare("configs:\n- config_name: A\n  data_files: A/*.parquet\n")
    os.rename(README, "declared.md")


def write_table(rows: Any, **how: Any) -> None:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    Path(TABLE).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, TABLE, **how)


def write_lines(rows: list[dict[str, Any]]) -> None:
    write(LINES, "".join(f"{json.dumps(row)}\n" for row in rows))


def declare(front: str | bytes) -> None:
    front = front.encode() if isinstance(front, str) else front
    write(README, b"---\n" + front + b"---\n# Data\n")


def pairs(name: str = "A", split: str = "original") -> Pairs:
    """The texts and pictures of all rows, as training reads them."""
    found = PairDataset.load(PairData(root="data", sources={name: PairSource()}, split=split), 0)
    return [[p.query.text, list(p.query.images), p.target.text] for p in found]


def other_rows(found: Pairs) -> str | None:
    truth = [[query, [os.path.relpath(i, "x") for i in images], answer] for query, images, answer in
             json.loads(Path("truth.json").read_text())]
    own = [[query, [os.path.relpath(i, "x") for i in images], answer] for query, images, answer in found]
    shown = [[q, [os.path.basename(i) for i in images], a] for q, images, a in own]
    right = [[q, [os.path.basename(i) for i in images], a] for q, images, a in truth]
    return leaves(found) or (f"other rows: {str(shown)[:200]}" if shown != right else None)


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
JSON_LINES: dict[str, str | bytes] = {
    "deep": '{"qry": ' + "[" * 90_000 + "]" * 90_000 + "}\n",
    "deep-objects": '{"a":' * 90_000 + "1" + "}" * 90_000,
    "huge-number": '{"qry": 1e999, "pos_text": "a", "qry_image_path": "", "pos_image_path": ""}\n',
    "long-number": '{"qry": ' + "9" * 100_000 + "}\n",
    "integer": '{"qry": 99999999999999999999999, "pos_text": "a", "qry_image_path": "", '
    '"pos_image_path": ""}\n',
    "nan": '{"qry": NaN, "pos_text": "a", "qry_image_path": "", "pos_image_path": ""}\n',
    "number-line": "7\n",
    "null-line": "null\n",
    "list-in-a-list": "[[1]]",
    "list-of-numbers": "[1, 2]",
    "unfinished-list": '[{"qry": "a"},',
    "empty": "",
    "blank": "\n\n \n",
    "utf-16": '{"qry": "a"}\n'.encode("utf-16"),
    "latin-1": b'{"qry": "caf\xe9"}\n',
    "nul": b"\0" * 1000,
    "zip": b"PK\x03\x04" + bytes(range(256)),
    "gzip": b"\x1f\x8b\x08\0" + bytes(range(256)),
    "one-line": '{"qry": "' + "x" * 30_000_000 + '"}\n',
    "mixed-kinds": '{"qry": "a", "qry_image_path": "", "pos_text": "b", "pos_image_path": ""}\n'
    '{"qry": ["a"], "qry_image_path": "", "pos_text": "b", "pos_image_path": ""}\n',
}
SAME_ROWS: dict[str, Any] = {
    "byte-order-mark": lambda text: b"\xef\xbb\xbf" + text,
    "carriage-returns": lambda text: text.replace(b"\n", b"\r\n"),
    "keys-twice": lambda text: text.replace(b'{"qry"', b'{"qry": "first", "qry"'),
    "a-key-a-row": lambda text: b"".join(
        line.replace(b"{", b'{"k%d": 1, ' % n) for n, line in enumerate(text.splitlines(True))
    ),
    "line-separators": lambda text: text,
}


def many_keys() -> None:
    """20,000 rows, each with a key that no other has."""
    rows = ({"qry": "a", "qry_image_path": "", "pos_text": "b", "pos_image_path": "", f"k{n}": n}
            for n in range(20_000))  # fmt: skip
    write(LINES, "".join(f"{json.dumps(row)}\n" for row in rows))


def rewritten(change: Any) -> Deed:
    return lambda: write(LINES, change(Path(LINES).read_bytes()))


ANCHORS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
FRONTS: dict[str, str | bytes] = {
    "anchors": ANCHORS + "configs:\n- config_name: A\n  data_files: *j\n",
    "anchors-beside": ANCHORS + "configs:\n- config_name: A\n  data_files: A/*.parquet\n",
    "anchors-in-a-name": ANCHORS + "configs:\n- config_name: *j\n  data_files: A/*.parquet\n",
    "python": "configs: !!python/object/apply:os.system ['touch ../outside/pwned']\n",
    "python-new": "configs: !!python/object/new:os.system ['touch ../outside/pwned']\n",
    "deep": "configs: " + "[" * 5_000 + "]" * 5_000 + "\n",
    "latin-1": b"configs: caf\xe9\n",
    "no-mapping": "- a\n- b\n",
    "no-yaml": "configs: [\n",
    "recursive": "configs: &a\n- config_name: A\n  data_files: *a\n",
    "dots": "configs:\n- config_name: A\n  data_files: ../../outside/rows.parquet\n",
    "absolute": "configs:\n- config_name: A\n  data_files: {outside}/rows.parquet\n",
    "dots-of-the-folder": "configs:\n- config_name: A\n  data_dir: ../../outside\n",
    "address": "configs:\n- config_name: A\n  data_files: https://x.invalid/a.parquet\n",
    "address-of-the-hub": "configs:\n- config_name: A\n  data_files: hf://datasets/x/y/a.parquet\n",
    "numbers": "configs:\n- config_name: A\n  data_files: 7\n",
    "null": "configs:\n- config_name: A\n  data_files:\n",
    "splits": "configs:\n- config_name: A\n  data_files:\n  - split: 7\n    path: 7\n",
    "braces": "configs:\n- config_name: A\n  data_files: 'A/{a,b}.parquet'\n",
    "globs": "configs:\n- config_name: A\n  data_files:\n  - split: original\n"
    "    path: '" + "**/" * 9 + "*.parquet'\n",
    "stars": "configs:\n- config_name: A\n  data_files:\n  - split: original\n    path: '**x'\n",
    "many-stars": "configs:\n- config_name: A\n  data_files:\n  - split: original\n"
    "    path: 'A/" + "*a" * 40 + "'\n",
    "code": "configs:\n- config_name: A\n  data_files: A/evil.py\n",
    "long": "configs: " + "x" * 20_000_000 + "\n",
    "date": "configs:\n- config_name: 2020-01-01\n  data_files: 99999-99-99\n",
    "integer": "configs: " + "9" * 100_000 + "\n",
    "sexagesimal": "configs: " + "1:" * 100_000 + "1\n",
}


def front(content: str | bytes) -> Deed:
    def act() -> None:
        if isinstance(content, str):
            declare(content.replace("{outside}", os.path.abspath("../outside")))
        else:
            declare(content)
        deep = Path("data", *("d" * 40))
        deep.mkdir(parents=True)
        for folder in (*deep.parents, deep):
            if folder.is_relative_to("data/d"):
                write(folder / f"{'a' * 60}.txt", "")

    return act


def declared_linked() -> None:
    declare("configs:\n- config_name: A\n  data_files: A/*.parquet\n")
    link(README, "../outside/secret.txt")


CSV: dict[str, str | bytes] = {
    "nul": b"qry\na\0b\n",
    "quote-open": 'qry\n"a\nb\n',
    "field-20-mb": "qry\n" + "x" * 20_000_000 + "\n",
    "other-columns": "a,b\n1,2\n",
    "more-cells": "qry\na,b,c\n",
    "utf-16": "qry\na\n".encode("utf-16"),
    "latin-1": b"qry\ncaf\xe9\n",
    "empty": "",
    "header-alone": "qry\n",
    "quotes": "qry\n" + '"' * 100_001,
}


def texts(name: str) -> list[str]:
    return read_texts([name], ["qry"]).texts


def renamed(prefix: str, deeds: Deeds) -> Deeds:
    return {f"{prefix}-{name}": deed for name, deed in deeds.items()}


def attacks() -> list[Attack]:
    lines = {name: (lambda c=content: write(LINES, c)) for name, content in JSON_LINES.items()}
    same = {name: rewritten(change) for name, change in SAME_ROWS.items()}
    csv = {name: (lambda c=content: write("data/texts.csv", c)) for name, content in CSV.items()}
    table, beside = ("data/A", "original-"), ("data/B", "original.jsonl", "images")
    fronts = renamed("readme", {name: front(content) for name, content in FRONTS.items()})
    fronts |= not_a_file(README) | {"readme-linked": declared_linked}
    read_b = lambda: pairs("B")  # noqa: E731
    read_train = lambda: pairs("A", "train" if Path(README).is_file() else "original")  # noqa: E731
    return [
        *each({"control": nothing} | renamed("parquet", PARQUET | METADATA), pairs, table, other_rows),
        *each(renamed("parquet", FLIPPED), pairs, table),
        Attack("parquet-changed-in-place", changed_in_place, pairs, table, changed_truth),
        *each({"control-of-lines": nothing} | renamed("lines", same), read_b, beside, other_rows),
        *each(renamed("lines", lines | not_a_file(LINES)), read_b, beside),
        *each({"lines-many-keys": many_keys}, read_b, beside),
        *each(renamed("path", {k: pathed(v) for k, v in PATHS.items()} | LINKED), read_b, beside, leaves),
        *each(fronts, read_train, ("README.md", "data/A"), other_rows),
        *each(renamed("csv", csv | not_a_file("data/texts.csv")), lambda: texts("data/texts.csv"),
              ("texts.csv",)),
        *each(renamed("texts", cut("data/texts.parquet", 4) | not_a_file("data/texts.parquet")),
              lambda: texts("data/texts.parquet"), ("texts.parquet",)),
        *each(renamed("texts", not_a_file("data/texts.jsonl")), lambda: texts("data/texts.jsonl"),
              ("texts.jsonl",)),
    ]  # fmt: skip


AREA = Area("tables", build, attacks, ("path-dots", "parquet-cut-3", "readme-anchors"))
