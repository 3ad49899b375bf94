"""A checkout in which studies run: real configurations, and programs that only leave what the real
ones leave, in no time, and write down that they ran."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.study.compare import Row
from eval.study.table import TABLE, read_table
from tests.support.paths import ROOT
from tests.support.results import result_json

TASKS = {"Words_t2i": "retrieval", "Words_i2t": "retrieval", "Names": "vqa"}
QUERIES = 8
# Called as launch.sh is. A program that finds its work done says "again"; calls.log has the rest.
PROGRAMS = r"""#!/bin/sh
set -u
command=$1
folder=
for word in "$@"; do
  case $word in
    output_dir=*|run.output_dir=*) folder=${word#*output_dir=} ;;
    loss.temperature=0.666) [ "$command" = stage2 ] && { echo "error: collapsed" >&2; exit 1; } ;;
  esac
done
case $command in
  mine|judge) folder=$3 ;;
  prepare) echo "$*" >>prepared.log; exit 0 ;;
esac
if [ -e "$folder/finished" ]; then echo "again $command $folder" >>calls.log; exit 0; fi
echo "begin $command $folder" >>calls.log
sleep "${SLEEP:-0}"
mkdir -p "$folder/final"
case $command in
  stage*) cp metrics.jsonl "$folder/metrics.jsonl" ;;
  eval) cp -r results/. "$folder/" ;;
esac
touch "$folder/finished"
echo "end $command $folder" >>calls.log
"""
MODEL = "model: {name: some/model}\n"
OPTIM = "optim: {steps: 4, batch_size_per_device: 8, chunk_size: 2, learning_rate: 0.01}\n"
FILES = {
    "stage1.yaml": f"data: {{texts: [texts.jsonl], teacher: teacher}}\n{MODEL}{OPTIM}",
    "stage2.yaml": f"data: {{root: pairs, sources: {{Words: {{}}}}}}\n{MODEL}{OPTIM}",
    "eval.yaml": f"data: {{root: tasks, suite: suite.yaml}}\n{MODEL}",
    "mine.yaml": MODEL,
    "judge.yaml": MODEL,
    "suite.yaml": "".join(
        f"{task}: {{meta_task: {meta}, distribution: ind}}\n" for task, meta in TASKS.items()
    ),
    "base.yaml": "stage1: stage1.yaml\nstage2: stage2.yaml\neval: eval.yaml\nmine: mine.yaml\n"
    "judge: judge.yaml\njudged_by: infonce-after-stage1\nprepare: {data: prepare data.yaml}\n"
    "triples: {prepare: {set: prepare own t.csv triples}, root: triples, task: t}\n"
    "environment: {CUDA_VISIBLE_DEVICES: ''}\n",
    "texts.jsonl": '{"text": "a"}\n',
    "metrics.jsonl": "".join(
        json.dumps({"step": n, "loss": 2.0 / n, "grad_norm": 1.0, "filtered_share": 0.1}) + "\n"
        for n in (2, 4)
    ),
}
GO = """
import sys
from pathlib import Path
import stages.study as study
from unime.runtime.program import run_program
study.ROOT = Path(sys.argv[1])
run_program(lambda: study.main(sys.argv[2:]))
"""


class StudyCheckout:
    """Files, and a launch.sh that runs nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in FILES.items():
            (folder / name).write_text(text)
        script = folder / "launch.sh"
        script.write_text(PROGRAMS)
        script.chmod(0o755)
        (folder / "configs").mkdir()
        shutil.copytree(ROOT / "configs/recipes", folder / "configs/recipes")
        for number, task in enumerate(TASKS):
            values = [float((n * 3 + number) % 4 > 0) for n in range(QUERIES)]
            found = result_json(task, values)
            path = folder / "results" / f"{task}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found))

    def write(self, text: str, name: str = "small.yaml") -> str:
        """A study on this base; returns its file."""
        (self.folder / name).write_text(f"base: base.yaml\n{text}")
        return name

    def start(self, *words: str, sleep: float = 0.0) -> subprocess.Popen[str]:
        """./launch.sh study, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", GO, str(self.folder), *words],
            cwd=ROOT,
            env={**os.environ, "SLEEP": str(sleep), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.log"
        return path.read_text().splitlines() if path.exists() else []

    def counts(self, what: str) -> Counter[str]:
        """How often each command began, ended or found its work done."""
        return Counter(line.split()[2] for line in self.calls if line.startswith(f"{what} "))

    def table(self, name: str = "small") -> list[Row]:
        return read_table(self.folder / "runs/study" / name / TABLE)


def kill(process: subprocess.Popen[Any]) -> None:
    """The study and all that it started, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def row(recipe: str, seed: int, hits: dict[str, Sequence[float]], **more: Any) -> Row:
    """A finished cell of a table."""
    found: Row = {"recipe": recipe, "seed": seed, "status": "done", "cell": f"{recipe}-{seed}"}
    found |= {f"hits/{task}": [*map(float, values)] for task, values in hits.items()}
    found |= {f"score/{task}": sum(values) / len(values) for task, values in hits.items()}
    return found | {"suite": "suite.yaml", "commit": "c", "hardware": "CPU", "folder": "x"} | more
