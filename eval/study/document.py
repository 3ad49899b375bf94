"""The tables and figures of docs/study.md, from the tables of the studies that were run.

    python -m eval.study.document                       makes them anew from docs/results/study/
    python -m eval.study.document runs/study/recipes    takes over what a study has written first

What lies between two marks of docs/study.md is made here and never written by hand; of a study of
which there is no table it says so.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from eval.study.compare import Reference
from eval.study.figures.style import LISTED
from eval.study.outcome import FIGURES
from eval.study.settings import STUDIES, StudyConfig
from eval.study.table import TABLE, read_table
from eval.study.tables import (
    NOT_RUN,
    arms_table,
    costs_table,
    differences_table,
    failures,
    pairs_table,
    provenance,
    tasks_table,
)
from unime.config import build_config
from unime.errors import DataError
from unime.runtime.files import read_json, replacing, write_aside
from unime.runtime.program import run_program

DOCUMENT = Path("docs/study.md")
RESULTS = Path("docs/results/study")
SHIPPED = ("recipes", "filter", "truth", "regime", "mined")


def main(words: list[str]) -> None:
    if len(words) > 1 or any(word.startswith("-") for word in words):
        raise SystemExit(__doc__)
    for word in words:
        take(Path(os.path.expanduser(word)))
    write_aside(DOCUMENT, filled(DOCUMENT.read_text("utf-8")))
    print(f"written: {DOCUMENT}")


def take(folder: Path) -> None:
    """Copy a study's table and figures beside the document.

    Raises:
        DataError: the folder is none of a shipped study that has ended.
    """
    if folder.name not in SHIPPED or not (folder / TABLE).is_file():
        names = ", ".join(SHIPPED)
        raise DataError(f"{folder}: expected the folder of a study that has run: {names}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    with replacing(RESULTS / f"{folder.name}.parquet") as aside:
        shutil.copy(folder / TABLE, aside)
    with replacing(RESULTS / folder.name) as aside:
        aside.mkdir()
        for path in sorted((folder / FIGURES).glob("*")):
            if path.suffix in (".svg", ".png") or path.name == LISTED:
                shutil.copy(path, aside)


def filled(document: str) -> str:
    """The document with what belongs between its marks."""
    for name in SHIPPED:
        document = put(document, name, "\n".join(parts_of(name)))
    return document


def put(document: str, name: str, content: str) -> str:
    """A document with other content between the marks of a study.

    Raises:
        DataError: there are no such marks.
    """
    begin, end = (f"<!-- {name}: {place} -->" for place in ("begin", "end"))
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise DataError(f"{DOCUMENT}: no {begin} … {end}")
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"


def parts_of(name: str) -> Iterator[str]:
    """Everything about a study."""
    path = RESULTS / f"{name}.parquet"
    if not path.is_file():
        yield f"*{NOT_RUN}*: `./launch.sh study {name}` writes what stands here then.\n"
        return
    rows = read_table(path)
    study = build_config(StudyConfig, STUDIES / f"{name}.yaml")
    reference = Reference.of_study(study)
    yield provenance(rows)
    yield differences_table(rows, reference)
    yield pairs_table(rows)
    yield arms_table(rows)
    yield tasks_table(rows)
    yield costs_table(rows)
    yield failures(rows)
    listed = RESULTS / name / LISTED
    for figure in read_json(listed, list) if listed.is_file() else []:
        place = f"results/study/{name}/{figure['name']}.svg"
        yield f"![{figure['title']}. {figure['text']}]({place})\n\n*{figure['title']}.*\n"


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
