"""Attacks on data folders: JSON, CSV, what a README declares, and plain texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.attacks.areas import tables
from tests.attacks.areas.tables import LINES, ROWS, other_rows, pairs
from tests.attacks.damage import cut, link, not_a_file, renamed, write
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from unime.data.texts import read_texts

README = "data/README.md"


def build() -> None:
    tables.build()
    for name in ("data/texts.parquet", "outside/rows.parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), name)
    write("data/texts.jsonl", "".join(f"{json.dumps({'qry': row['qry']})}\n" for row in ROWS))
    write("data/texts.csv", "qry\n" + "".join(f"{row['qry']}\n" for row in ROWS))


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
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
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


def declare(front: str | bytes) -> None:
    front = front.encode() if isinstance(front, str) else front
    write(README, b"---\n" + front + b"---\n# Data\n")


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


def declared() -> tables.Pairs:
    """The rows of a split that a README declares, if there is one."""
    return pairs("A", "train" if os.path.lexists(README) else "original")


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


def attacks() -> list[Attack]:
    lines = {name: (lambda c=content: write(LINES, c)) for name, content in JSON_LINES.items()}
    same = {name: rewritten(change) for name, change in SAME_ROWS.items()}
    csv = {name: (lambda c=content: write("data/texts.csv", c)) for name, content in CSV.items()}
    fronts = renamed("readme", {name: front(content) for name, content in FRONTS.items()})
    fronts |= not_a_file(README) | {"readme-linked": declared_linked}
    beside = ("data/B", "original.jsonl")
    read = {name: f"data/texts.{name}" for name in ("csv", "parquet", "jsonl")}
    odd = {
        "csv": renamed("csv", csv | not_a_file(read["csv"])),
        "parquet": renamed("texts", cut(read["parquet"], 4) | not_a_file(read["parquet"])),
        "jsonl": renamed("texts", not_a_file(read["jsonl"])),
    }
    return [
        *each(
            {"control": nothing} | renamed("lines", same), lambda: pairs("B"), beside, other_rows
        ),
        *each(renamed("lines", lines | not_a_file(LINES)), lambda: pairs("B"), beside),
        *each({"lines-many-keys": many_keys}, lambda: pairs("B"), beside),
        *each(
            {"control-of-readme": nothing} | fronts, declared, ("README.md", "data/A"), other_rows
        ),
        *[
            attack
            for kind, deeds in odd.items()
            for attack in each(deeds, lambda kind=kind: texts(read[kind]), (f"texts.{kind}",))
        ],
    ]


AREA = Area("lines", build, attacks, ("lines-deep", "readme-dots"))
