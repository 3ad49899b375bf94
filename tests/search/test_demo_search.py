"""The demo's model finds in an index of the demo's held-out pictures what its evaluation finds.

./launch.sh demo && ./launch.sh test -m use tests/search/test_demo_search.py

UNIME_DEMO names the checkout where the demo was run, if it is another.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.paths import ROOT
from unime.embedder import Embedder
from unime.search import Index

pytestmark = pytest.mark.use
DEMO = Path(os.environ.get("UNIME_DEMO", ROOT))
RUN, TASK = "stage1_stage2", "Emoji_t2i"


def test_nine_of_ten(tmp_path: Path) -> None:
    result = DEMO / f"runs/demo/eval/{RUN}/{TASK}.json"
    if not result.is_file():
        pytest.skip(f"the demo was not run in {DEMO}")
    table = DEMO / f"data/demo/test/{TASK}/test-00000-of-00001.parquet"
    rows = pq.read_table(table).to_pylist()
    right = json.loads(result.read_text())["values"]
    asked = [
        (row["qry_text"], row["tgt_img_path"][0])
        for row, hit in zip(rows, right, strict=True)
        if hit
    ]
    assert len(asked) > 100
    embedder = Embedder(DEMO / "runs/demo" / RUN, device="cpu")
    pictures = DEMO / f"data/demo/test/images/{TASK}"
    with Index(tmp_path / "index", embedder) as index:
        report = index.update(pictures)
        assert report.added + report.moved == len(list(pictures.rglob("*.png")))
        found = index.search([text.strip() for text, _ in asked], limit=1)
    first = sum(hits[0].path.endswith(path) for hits, (_, path) in zip(found, asked, strict=True))
    print(f"first for {first} of {len(asked)} among {report.added} pictures")
    assert first >= 0.9 * len(asked)
