"""The table of a study: ./launch.sh test tests/study/test_table.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.study import table
from eval.study.space import alignment, gap, uniformity
from eval.study.table import read_table, write_table
from tests.support.studies import row
from unime.errors import DataError

ROWS = [
    row("unime", 0, {"A": [1, 0]}, **{"grid/k": 8.0, "curve/stage2/loss": [1.0, 0.5]}),
    row("unime", 1, {"A": [1, 1]}, **{"grid/k": "null"}),
    {"recipe": "e5v", "seed": 0, "status": "failed", "reason": "error: | none"},
]


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep/table.parquet"
    write_table(path, ROWS)
    found = read_table(path)
    assert found[0] == ROWS[0] | {"grid/k": "8"}  # one of the values is no number
    assert found[1:] == ROWS[1:]


def test_a_table_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, ROWS[:1])
    before = path.read_bytes()

    def half(_: pa.Table, aside: Path, **__: object) -> None:
        aside.write_bytes(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table.pq, "write_table", half)
    with pytest.raises(OSError):
        write_table(path, ROWS)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"not parquet", None])
def test_what_is_no_table_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"table\.parquet: (cannot read it|not the table)"):
        read_table(path)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.parquet")


def test_alignment_uniformity_and_gap_in_closed_form() -> None:
    axes = np.eye(4)
    assert alignment(axes, axes) == 0
    assert alignment(axes, np.roll(axes, 1, axis=0)) == pytest.approx(2)
    assert uniformity(axes) == pytest.approx(-4)  # all pairs are at a squared distance of 2
    assert uniformity(np.ones((5, 1))) == 0
    assert uniformity(axes[:1]) == 0
    assert gap(axes, axes) == 0
    assert gap(axes[:1], -axes[:1]) == pytest.approx(2)
