"""Does stage 2 learn on pictures that it was not tuned on, and more from mined negatives?

    python -m benchmarks.stamps docs/results/stamps.json [runs/stamps]

Tux Paint's stamps (benchmarks/stamps/data.py; apt-get install tuxpaint-stamps-default): a fifth of
the captions is held out. For each of three seeds stage 1, then stage 2 with hard negatives when
they may begin (the default), the same with four negatives of each row that are mined anew each
epoch, from the first step (the paper's way) and without (plain InfoNCE).
Writes JSON, and the table as Markdown beside it: mean ± standard deviation over the seeds, and the
difference of hit@1 to the default with its 95 % interval over seeds and queries. What is done is
not repeated.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import commits_of
from benchmarks.stamps import data as stamps_data
from eval.bootstrap import Draws
from eval.report import table
from eval.study.compare import SAMPLES, SEED
from unime.retrieval.fingerprint import package_versions
from unime.runtime.environment import device_name
from unime.runtime.files import read_json, write_json

SEEDS = (0, 1, 2)
DATA = Path("data/stamps")
ARMS = {
    "auto": ["loss.hard_negatives_after=auto"],
    # has collapsed by step 30
    "from the first step": [
        "loss.hard_negatives_after=0",
        "optim.on_collapse=warn",
        "optim.steps=40",
    ],  # fmt: skip
    "auto, mined": ["data.mine_every=epoch", "mining.num_negatives=4"],
    "auto, mined from rank 10": [
        "data.mine_every=epoch",
        "mining.num_negatives=4",
        "mining.range_min=10",
    ],
    "InfoNCE": ["loss.num_hard_negatives=null", "loss.false_negative_margin=null"],
}
TASKS = ("Stamps_i2t", "Stamps_t2i")
SHOWN = {
    **{f"hit@1 {task[-3:]}": ("percent", task, "hit@1") for task in TASKS},
    **{f"hit@10 {task[-3:]}": ("percent", task, "hit@10") for task in TASKS},
    "mean similarity": ("number", TASKS[0], "mean_similarity"),
    "effective rank": ("number", TASKS[0], "effective_rank"),
}
DEFAULT = "auto"  # which others are compared to
Row = dict[str, Any]


def main(words: list[str]) -> None:
    if not words or not words[0].endswith(".json"):
        raise SystemExit(__doc__)
    output, folder = Path(words[0]), Path(words[1] if len(words) > 1 else "runs/stamps")
    if not (DATA / "suite.yaml").is_file():
        stamps_data.main([str(DATA)])
    run("data_prep.teacher_embeddings", "teacher")
    rows: dict[str, list[Row]] = {"base": [evaluate(folder / "base", "null")]}
    for seed in SEEDS:
        for name, found in of_seed(folder / f"seed{seed}", seed).items():
            rows.setdefault(name, []).append(found)
        result = {
            "command": " ".join(["python -m benchmarks.stamps", *words]),
            "commit": commits_of(path.parent for path in folder.glob("seed*/*/starts.jsonl")),
            "device": device_name(),
            "versions": package_versions(),
            "seeds": len(rows["stage 1"]),
            "rows": rows,
        }
        write_json(output, result)
        output.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


def of_seed(folder: Path, seed: int) -> dict[str, Row]:
    first = [f"run.output_dir={folder}/stage1", f"run.seed={seed}"]
    run("stages.stage1_distill", "stage1", *first)
    rows = {"stage 1": evaluate(folder / "eval-stage1", f"{folder}/stage1/final")}
    for name, settings in ARMS.items():
        place = folder / name.replace(" ", "-")
        own = [f"run.output_dir={place}", f"run.seed={seed}", *settings]
        run("stages.stage2_instruct", "stage2", f"model.adapter={folder}/stage1/final", *own)
        last = read_json(place / "finished.json")
        row = evaluate(folder / f"eval-{place.name}", f"{place}/final")
        rows[name] = row | {"loss": last["metrics"]["loss"], "collapsed": bool(last["collapsed"])}
    return rows


def evaluate(output: Path, adapter: str) -> Row:
    run("eval.evaluate", "eval", f"output_dir={output}", f"model.adapter={adapter}")
    tasks = {task: read_json(output / f"{task}.json") for task in TASKS}
    return {
        name: tasks[task]["metrics"].get(key, tasks[task].get(key))
        for name, (_, task, key) in SHOWN.items()
    } | {"hits": {task: found["values"] for task, found in tasks.items()}}


def run(module: str, config: str, *settings: str) -> None:
    words = [sys.executable, "-m", module, "--config", f"configs/stamps/{config}.yaml", *settings]
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(words, check=True, env={**os.environ, **offline})


def markdown(result: dict[str, Any]) -> str:
    """The table: in %, mean ± standard deviation over the seeds."""
    how = f"`{result['command']}` at commit {result['commit']}, {result['device']};"
    how += f" {result['seeds']} seeds; held-out captions (test split)."
    lines = []
    for name, rows in result["rows"].items():
        cells = [_cell([row[key] for row in rows], kind) for key, (kind, _, _) in SHOWN.items()]
        losses = [row["loss"] for row in rows if "loss" in row]
        cells.append(_cell(losses, "number") if losses else "")
        number = sum(row.get("collapsed", False) for row in rows)
        cells.append(f"{number} of {len(rows)}" if losses else "")
        cells.append(_beside(rows, result["rows"].get(DEFAULT, [])) if name != DEFAULT else "")
        lines.append([name, *cells])
    header = ["", *SHOWN, "last loss", "collapsed", f"hit@1 less {DEFAULT}'s"]
    return f"{how}\n\n{table.markdown(header, [lines])}"


def _beside(rows: list[Row], others: list[Row]) -> str:
    """What an arm has more than another, in points of both tasks' mean, on the same queries with
    the same seeds; "": they have other seeds, as the base has."""
    if len(rows) != len(others):
        return ""
    pairs = list(zip(rows, others, strict=True))
    apart = {
        task: np.array([np.subtract(a["hits"][task], b["hits"][task]) for a, b in pairs])
        for task in TASKS
    }  # (S, Q)
    found = Draws.of(apart, SAMPLES, SEED).estimate(lambda of: sum(of.values()) / len(of))
    low, high = (100 * end for end in found.ci95)
    return f"{100 * found.value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _cell(values: list[float], kind: str) -> str:
    scale, digits = (100, 1) if kind == "percent" else (1, 2)
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main(sys.argv[1:])
