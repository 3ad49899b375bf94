"""docs/study.md says what the tables of its studies say: ./launch.sh test
tests/study/test_document.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from eval.study import document
from eval.study.compare import arms_of, averages, difference
from eval.study.document import DOCUMENT, RESULTS, SHIPPED, filled, put, take
from eval.study.settings import RECIPES
from eval.study.table import TABLE, read_table, write_table
from tests.support.paths import ROOT
from tests.support.studies import row
from unime.errors import DataError


def test_document_and_tables_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m eval.study.document` makes the document anew where they do not."""
    monkeypatch.chdir(ROOT)
    text = DOCUMENT.read_text("utf-8")
    assert text == filled(text)
    listed = set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE))
    assert listed == {path.stem for path in RECIPES.glob("*.yaml")}
    for place in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / place).is_file(), place


SAID = re.compile(r"([+-]?\d+\.\d)\s+\(([+-]?\d+\.\d) to ([+-]?\d+\.\d)\)")


def differences(name: str) -> Iterator[tuple[float, ...]]:
    """Of every two arms of a study on every average, in points."""
    path = RESULTS / f"{name}.parquet"
    rows = read_table(path) if path.is_file() else []
    for one, other in permutations(arms_of(rows), 2):
        for average in averages(rows).values():
            found = difference(one, other, average)
            assert found is not None
            points = [round(100 * value, 1) for value in (found.value, *found.ci95)]
            yield tuple(points)
            yield -points[0], -points[2], -points[1]  # "worse by"


def test_every_difference_of_the_text_is_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is written by hand: each difference with its interval is of two arms."""
    monkeypatch.chdir(ROOT)
    _, _, text = DOCUMENT.read_text("utf-8").partition("## What held and what did not")
    wanted = {tuple(float(value) for value in found) for found in SAID.findall(text)}
    assert len(wanted) > 5
    for name in SHIPPED:
        for found in differences(name) if wanted else ():
            wanted.discard(found)
    assert not wanted


def test_a_table_that_changes_changes_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    before = DOCUMENT.read_text("utf-8")
    hits = {task: [1, 1, 1, 0] for task in ("Emoji-Kind", "Emoji_i2t")}
    rows = [
        row(recipe, 0, hits, suite="configs/suites/demo.yaml", seconds=60.0)
        for recipe in ("infonce-after-stage1", "unime")
    ]
    rows.append({"recipe": "e5v", "seed": 0, "status": "failed", "reason": "no room"})
    write_table(tmp_path / "runs/recipes" / TABLE, rows)
    monkeypatch.setattr(document, "RESULTS", tmp_path / "results")
    take(tmp_path / "runs/recipes")
    after = filled(before)
    assert after != before
    assert "| unime | 1 | 75.0 [" in after
    assert "- e5v, seed 0: failed: no room" in after
    assert "+0.0 points (+0.0 to +0.0), within noise over queries alone: one seed" in after
    assert after.count("*not run yet*: ") == len(SHIPPED) - 1  # the others have no table here
    assert filled(after) == after


def test_only_shipped_studies_that_ran_are_taken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder of a study that has run"):
        take(tmp_path)
    with pytest.raises(DataError, match="no <!-- recipes: begin --> … <!-- recipes: end -->"):
        put("nothing", SHIPPED[0], "x")
    assert RESULTS.parts[0] == "docs"
