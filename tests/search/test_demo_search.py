"""The demo's model finds in an index of the demo's held-out pictures what its evaluation finds.

./launch.sh demo && ./launch.sh test -m use tests/search/test_demo_search.py

UNIME_DEMO names the checkout where the demo was run, if it is another.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages.app import CAPTION
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
    asked = [row for row, hit in zip(rows, right, strict=True) if hit]
    captions = {row["tgt_img_path"][0]: thing(row["qry_text"]) for row in rows}
    embedder = Embedder(DEMO / "runs/demo" / RUN, device="cpu")
    pictures = DEMO / "data/demo/test/images" / TASK
    with Index(tmp_path / "index", embedder) as index:
        report = index.update(pictures)
        assert report.added + report.copied == len(rows) > 100
        texts = [row["qry_text"].strip() for row in asked]
        typed = [text.removeprefix(CAPTION).strip() for text in texts]
        ways: dict[str, list[Any]] = {
            "as evaluated": texts,
            "as the page asks": [{"text": text, "instruction": CAPTION} for text in typed],
            "without its instruction": typed,
        }
        found = {way: index.search(items, limit=len(rows)) for way, items in ways.items()}
    for way, hits_of in found.items():
        of_candidates = of_all = of_things = 0
        for row, hits in zip(asked, hits_of, strict=True):
            names = [str(Path(hit.path).relative_to(DEMO / "data/demo/test")) for hit in hits]
            own, *_ = row["tgt_img_path"]
            of_candidates += next(name for name in names if name in row["tgt_img_path"]) == own
            of_all += names[0] == own
            of_things += captions[names[0]] == captions[own]
        print(
            f"{way}: of {len(asked)} queries the right picture is first for {of_candidates} among"
            f" the 100 that the evaluation compares, for {of_all} among all {len(rows)}, where a"
            f" picture of the right thing is first for {of_things}"
        )
        assert of_candidates >= 0.9 * len(asked) and of_things >= 0.9 * len(asked), way


def thing(caption: str) -> str:
    """What a caption names, without the colour behind it: the demo has each thing several times."""
    return re.sub(r" on an? \w+ background", "", caption)
