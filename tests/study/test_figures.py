"""Figures from a small table: ./launch.sh test tests/study/test_figures.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.page.drawn import drawn_figures
from eval.study.compare import Reference
from eval.study.figures.draw import MEASURED, draw_all
from tests.support.studies import FILES, row
from unime.errors import DataError

pytest.importorskip("matplotlib", reason="pip install 'unime[study]'")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    suite = tmp_path / "suite.yaml"
    suite.write_text(FILES["suite.yaml"])
    found = []
    for seed in (0, 1):
        for number, (beta, k) in enumerate([(0.0, "8"), (0.1, "8"), ("null", "8"), (0.1, "null")]):
            hits = {task: [int((n + seed) % 5 > number) for n in range(20)]
                    for task in ("Words_t2i", "Words_i2t", "Names")}  # fmt: skip
            more = {"grid/stage2.loss.false_negative_margin": str(beta),
                    "grid/stage2.loss.num_hard_negatives": k,
                    "curve/stage2/step": [1.0, 2.0], "curve/stage2/loss": [2.0, 1.0],
                    "curve/stage2/grad_norm": [1.0, 0.5],
                    "curve/stage2/effective_rank": [9.0, 10.0],
                    "curve/stage2/filtered_share": [0.1, 0.2 * number]}  # fmt: skip
            space = {f"{key}/Names": 0.1 * number for key in ("alignment", "uniformity", "gap")}
            found.append(row("unime", seed, hits, suite=str(suite), **more, **space))
    return found


def test_every_figure_is_drawn_twice_and_listed(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    points = [{"step": n, "loss": 1.0 + n, "grad_norm": 2.0 - n} for n in (0, 1)]
    kinds = {kind: points for kind in ("easy", "random", "hard")}
    (folder / MEASURED).write_text(json.dumps({"k": 8, "kinds": kinds}))
    reference = Reference("unime", {"stage2.loss.false_negative_margin": None})
    drawn = draw_all(rows, reference, folder)
    names = [figure.name for figure in drawn]
    assert names == ["recipes", "differences", "beta", "k", "training", "negatives", "space"]
    for name in names:
        assert (folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors(1 << 20) or ()) > 10
    beta = (folder / "beta.svg").read_text()
    assert "margin β of the filter" in beta and "k = 8" in beta and "k = all" in beta
    listed = json.loads((folder / "figures.json").read_text())
    assert [entry["name"] for entry in listed] == names
    assert all(entry["title"] and entry["text"] for entry in listed)
    first = {path.name: path.read_bytes() for path in folder.glob("*.*g")}
    draw_all(rows, reference, folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*g")} == first
    shown = drawn_figures(folder)
    assert [entry["title"] for entry in shown] == [entry["title"] for entry in listed]
    assert all(entry["uri"].startswith("data:image/svg+xml;base64,") for entry in shown)


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    rows = [{"recipe": "unime", "seed": 0, "status": "failed"}]
    assert draw_all(rows, Reference("unime", {}), tmp_path) == []
    assert drawn_figures(tmp_path) == [] == drawn_figures(None)


@pytest.mark.parametrize(
    "entry", [{"name": "../secret", "title": "t", "text": "x"}, {"name": "a", "title": 1}, "a"]
)
def test_a_list_of_figures_of_a_stranger_is_refused(entry: object, tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match="expected name, title and text"):
        drawn_figures(tmp_path)
