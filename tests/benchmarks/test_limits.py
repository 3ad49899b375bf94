"""What docs/limits.md is measured with works on small sizes, and the document has what it wrote.

./launch.sh test tests/benchmarks/test_limits.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.large import rows
from benchmarks.limits import RESULT, in_words, main
from tests.support.paths import ROOT
from unime.runtime.files import read_json

SMALL = {"ranking": 300, "rows": 20, "store": 1100, "distillation": 16}
SMALL |= {name: 400 for name in rows() if name.startswith("picture")}
SMALL |= {name: 16 for name in rows() if name.startswith("loss")}


@pytest.mark.parametrize("name", SMALL)
def test_a_row_is_made_and_measured(name: str, tmp_path: Path) -> None:
    row = rows()[name]
    row.make(tmp_path, SMALL[name])
    row.act(tmp_path, SMALL[name])


@pytest.mark.parametrize("word", ["only=NOSUCH", "only=ranking,NOSUCH", "ranking", "rows=3"])
def test_what_measures_nothing_is_refused(word: str) -> None:
    with pytest.raises(SystemExit, match="NOSUCH" if "NOSUCH" in word else word):
        main([word])


def test_the_document_has_the_table() -> None:
    result = read_json(ROOT / RESULT)
    assert [row["name"] for row in result["rows"]] == list(rows())
    assert in_words(result) in (ROOT / "docs/limits.md").read_text()
