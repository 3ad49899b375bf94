"""docs/backbones.md shows what the tests measured of every family: its generator's last word.

python -m pytest tests/benchmarks/test_backbones_table.py
"""

from __future__ import annotations

import json

from benchmarks.backbones_table import tables
from benchmarks.markdown import fill
from tests.support.paths import ROOT
from unime.backbones.families import BACKBONES
from unime.inputs.presets import PRESETS

DOCUMENT = (ROOT / "docs/backbones.md").read_text()
RESULTS = json.loads((ROOT / "docs/results/backbones.json").read_text())


def test_every_family_was_measured() -> None:
    assert set(RESULTS) == set(BACKBONES)
    for family, found in RESULTS.items():
        assert found.keys() == {
            "alone", "exported", "features", "learned", "sentence_transformers", "trained",
            "video",
        }, family  # fmt: skip
        assert max(found["alone"].values()) < 1e-5
        theirs = found["sentence_transformers"]
        assert {kind: why for kind, why in theirs.items() if isinstance(why, str)} == dict(
            BACKBONES[family].st_limits
        )


def test_the_document_is_up_to_date() -> None:
    assert fill(DOCUMENT, tables(RESULTS)) == DOCUMENT
    assert all(f"`{name}`" in DOCUMENT for name in (*BACKBONES, *PRESETS))


def test_what_was_not_measured_says_so() -> None:
    found = tables({"qwen2_vl": RESULTS["qwen2_vl"]})
    assert "| `llava` | – | – | – | – | – | – |" in found
