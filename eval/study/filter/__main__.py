"""The false-negative filter beside the truth: precision and recall of every rule at every setting.

    python -m eval.study.filter docs/results/filter.json runs/demo

On batches of the demo's training rows and on flags, as the models before and after stage 2 embed
them. Writes JSON, and beside it a table (.md) and, with matplotlib, the curves (.svg, .png).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from data_prep.teachers.sentence_model import embed_texts, load_teacher
from eval.demo.filter import flags, training_batches
from eval.report.table import markdown
from eval.study.filter.rules import (
    BETAS,
    PICTURES,
    TEACHER,
    UNIONS,
    counted,
    embedded,
    look_at,
    not_known,
    rules,
)
from unime.config import Stage2Config, TeacherConfig, build_config
from unime.models.encoder import Encoder
from unime.retrieval.encoding import encode_items
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.environment import device_name, git_commit
from unime.runtime.files import write_aside, write_json, writing
from unime.runtime.folder_lock import locked
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar

BATCHES = 18
MOMENTS = {"before": "stage1", "after": "stage1_stage2"}  # stage 2: the model of a demo's folder
SPLIT = "test"  # of the flags
Record = dict[str, Any]


def main(words: list[str]) -> None:
    if len(words) != 2 or not words[0].endswith(".json"):
        raise SystemExit(__doc__)
    output, folder = (Path(os.path.expanduser(word)) for word in words)
    found = judge(folder)
    with locked("output", output.parent), writing("output", output):
        write_json(output, found)
        write_aside(output.with_suffix(".md"), text := page(found))
        if importlib.util.find_spec("matplotlib") is not None:
            draw(found, output)
    print(text)


def judge(folder: Path, batches: int = BATCHES) -> Record:
    """Every rule on every kind of rows, with the models of a demo's folder."""
    config = build_config(TeacherConfig, Path("configs/demo/teacher.yaml"))
    teacher = load_teacher(config)
    stage2 = build_config(Stage2Config, folder / "stage1_stage2/config.yaml")
    embedders = {moment: _embedder(stage2, folder / model) for moment, model in MOMENTS.items()}
    counts: dict[Any, Tensor] = defaultdict(lambda: torch.zeros(4, dtype=torch.long))
    sources = {"training": [*training_batches(stage2, batches)], "flags": [flags(SPLIT)]}
    for rows, own in sources.items():
        for batch in progress_bar(own, total=len(own), desc=rows, unit="batch"):
            seen = look_at(
                batch,
                lambda texts: embed_texts(teacher, config, texts),
                stage2.inputs.max_image_pixels,
            )
            for moment, embedder in embedders.items():
                sides = (_embedded(embedder, items) for items in (batch.queries, batch.targets))
                now = embedded(seen, *sides)
                for kind, looked_at in ((rows, now), (f"{rows}, left", not_known(now))):
                    for rule in rules():
                        counts[kind, moment, rule.family, rule.value] += counted(looked_at, rule)
    names = ("rows", "moment", "rule", "value")
    facts = {"commit": git_commit(), "hardware": device_name(), "batches": batches}
    facts["demo"] = (folder / "commit.txt").read_text().strip()
    results = [dict(zip(names, key, strict=True)) | _shares(four) for key, four in counts.items()]
    return facts | {"teacher": config.name, "results": results}


def _embedder(config: Stage2Config, run: Path) -> UnimeEmbedder:
    model = replace(config.model, adapter=str(run / "final"))
    return UnimeEmbedder(Encoder.load(model, config.inputs))


def _embedded(embedder: UnimeEmbedder, items: list[Any]) -> Tensor:
    return encode_items(Accelerator(cpu=True), embedder, items, batch_size=64)


def _shares(four: Tensor) -> Record:
    pairs, false, dropped, both = four.tolist()
    return {
        "pairs": pairs, "false_negatives": false, "dropped": dropped, "right_to_drop": both,
        "precision": both / dropped if dropped else None,
        "recall": both / false if false else None,
    }  # fmt: skip


def page(found: Record) -> str:
    """The document: tables made of the numbers."""
    lines = [HEAD.format(**found, teacher_cosine=TEACHER, bits=PICTURES)]
    for rows in TITLES:
        own = [row for row in found["results"] if row["rows"] == rows]
        first = own[0]
        lines.append(
            f"\n## {TITLES[rows]}\n\n{first['pairs']:,} pairs, of which"
            f" {first['false_negatives']:,} are false negatives"
            f" ({100 * first['false_negatives'] / first['pairs']:.2f} %).\n"
        )
        header = ["rule", *(f"{key}, {moment}" for moment in MOMENTS for key in
                            ("dropped", "precision", "recall"))]  # fmt: skip
        kinds = list(dict.fromkeys((row["rule"], row["value"]) for row in own))
        by = {(row["rule"], row["value"], row["moment"]): row for row in own}
        table = []
        for kind in kinds:
            cells = [cell for moment in MOMENTS for cell in _cells(by[*kind, moment])]
            table.append([named(*kind), *cells])
        lines.append(markdown(header, [table]))
    return "\n".join(lines)


TITLES = {
    "training": "Batches of training rows",
    "training, left": "Batches: what the loss may take for negatives",
    "flags": "Flags",
    "flags, left": "Flags: what the loss may take for negatives",
}
HEAD = """# The false-negative filter beside the truth

What each rule drops of the pairs of a query and another row's target, in {batches} batches of 64
rows of the demo's training data, and of the flags, which no stage has seen and some of which are
identical. The truth is the demo's own (`answer_key`). *Precision*: which share of what is dropped
is false. *Recall*: which share of the false negatives is dropped. *Before* and *after* stage 2: the
models after stage 1 and after both.

All pairs of different rows are judged first, then those that the loss may take for negatives: it
never counts copies and known positives. A copy is as similar as the positive itself, so that no
margin of 0 or more can drop it. What a rule can see differs: the margin (UniME's: more similar
than the positive plus beta) embeddings; the teacher ({teacher}) the targets' texts, or the
queries' where targets have none; perceptual hashes pictures beside equal texts; equality the rows.
In unions the teacher's cosine is above {teacher_cosine}, hashes differ in {bits} bits at most.

`python -m eval.study.filter docs/results/filter.json runs/demo` at commit {commit} on {hardware};
the models are those of `./launch.sh demo` at {demo}.
"""


def named(rule: str, value: float | None) -> str:
    """As a table has it."""
    if value is None:
        return rule
    if rule == "teacher":
        return f"{rule}, cosine above {value:g}"
    return f"{rule}, beta {value:g}" if rule in UNIONS else f"{rule}, {value:g} bits"


def _cells(row: Record) -> list[str]:
    shares = ("–" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall"))
    return [f"{row['dropped']:,}", *shares]


def draw(found: Record, output: Path) -> None:
    """Precision against recall, a line a family; of the margin each beta is written beside."""
    from eval.study.figures.style import Figure, drawing, look_of, save

    panels_of = [(rows, moment) for rows in TITLES for moment in MOMENTS]
    with drawing(len(MOMENTS), len(TITLES), 4.2, 3.4) as (canvas, panels):
        for panel, (rows, moment) in zip(panels, panels_of, strict=True):
            own = [r for r in found["results"] if (r["rows"], r["moment"]) == (rows, moment)]
            families = list(dict.fromkeys(row["rule"] for row in own))
            for number, family in enumerate(families):
                points = [r for r in own if r["rule"] == family and r["precision"] is not None]
                panel.plot([r["recall"] for r in points], [r["precision"] for r in points],
                           markersize=4, linewidth=1, label=family,
                           **look_of(number))  # fmt: skip
                if family == "margin":
                    for row in points:
                        place = row["recall"], row["precision"]
                        panel.annotate(f"{row['value']:g}", place, fontsize=7,
                                       textcoords="offset points", xytext=(4, 4))  # fmt: skip
            panel.set_title(f"{TITLES[rows]}, {moment} stage 2")
            panel.set_xlabel("recall")
            panel.set_ylabel("precision")
            panel.set_xlim(-0.02, 1.02)
            panel.set_ylim(-0.02, 1.05)
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        title = "Precision and recall of each rule, on the margin's line each beta"
        save(canvas, output.parent, Figure(output.stem, title, f"betas {BETAS}"))


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
