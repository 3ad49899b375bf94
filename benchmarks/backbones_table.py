"""The tables of docs/backbones.md from what two test files measured, put into it.

rm -f docs/results/backbones.json
UNIME_BACKBONES_RESULTS=docs/results/backbones.json ./launch.sh test tests/test_pipeline.py \\
    tests/models/features/test_frozen.py -m "backbones or not backbones"
.venv/bin/python -m benchmarks.backbones_table docs/results/backbones.json docs/backbones.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.markdown import NOT_RUN, fill, table
from unime.backbones.families import BACKBONES
from unime.runtime.files import read_json

KINDS = ("text", "image", "image+text", "several images", "video")


def families(
    heads: tuple[str, ...], results: dict[str, Any], row: Callable[[dict[str, Any]], list[str]]
) -> str:
    """A row for each."""
    rows = (
        [f"`{name}`", *(row(results[name]) if name in results else [NOT_RUN] * len(heads))]
        for name in BACKBONES
    )
    return table(("family", *heads), rows)


def training(found: dict[str, Any]) -> list[str]:
    kinds = ["yes" if found["learned"].get(kind, 0) > 0 else NOT_RUN for kind in KINDS]
    return [*kinds, ", ".join(found["trained"])]


def features(found: dict[str, Any]) -> list[str]:
    value = found.get("features", NOT_RUN)
    if isinstance(value, float):
        return [f"{value:.0e}" if value else "0"]
    return [value or "no"]


def quantised(found: dict[str, Any]) -> list[str]:
    alone = found["alone"]
    return [f"{alone[kind]:.0e}" if alone[kind] else "0" for kind in KINDS]


def exported(notes: list[str]) -> Callable[[dict[str, Any]], list[str]]:
    """Differences, or a number that stands for the reason why there is none."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0e}" if value else "0"
        if value not in notes:
            notes.append(value)
        return f"no ({notes.index(value) + 1})"

    def row(found: dict[str, Any]) -> list[str]:
        theirs = found["sentence_transformers"]
        whole = [theirs.get(kind, theirs.get("all", NOT_RUN)) for kind in (*KINDS, "mixed")]
        return [f"{found['exported']:.0e}", *map(cell, whole)]

    return row


def tables(results: dict[str, Any]) -> str:
    notes: list[str] = []
    video = {f: "its own" if of["video"] else "as images" for f, of in results.items()}
    parts = [
        "**Training**: both stages took three steps on NF4 weights, and items of each kind give"
        " adapters a gradient. The last column says which parts LoRA can train; video: "
        + "; ".join(
            f"{how} for {', '.join(f'`{f}`' for f in BACKBONES if video.get(f) == how)}"
            for how in ("its own", "as images")
        )
        + ".",
        families((*KINDS, "LoRA on"), results, training),
        "**Features once**: largest difference of a coordinate between vectors of pixels and of"
        " what vision tower and projector made of them apart, items of all kinds in one batch; no:"
        " the model's forward takes pixels alone (transformers' `mm_encoder_outputs` is missing).",
        families(("features once",), results, features),
        "**NF4** (double quantisation), after training: largest difference of a coordinate between"
        " the vector of an item alone and the same item in one padded batch with all others.",
        families(KINDS, results, quantised),
        "**Export**: largest difference between the trained NF4 model and the exported one (the"
        " weights that NF4 stood for, adapters merged), then between the exported one in unime and"
        " in sentence-transformers, each kind in a batch and all kinds in one.",
        families(("merged", *KINDS, "mixed"), results, exported(notes)),
        "\n".join(f"({number}) {note}." for number, note in enumerate(notes, start=1)),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    target = Path(sys.argv[2])
    found = tables(read_json(Path(sys.argv[1])))
    target.write_text(fill(target.read_text(), found))
