"""Stage 1 on a real language model: one command's programs in order, its table, its documents.

pytest tests/benchmarks/test_real_llm.py
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import real_llm
from eval.report.seeds import collect
from eval.report.seeds import main as seeds
from tests.support.paths import ROOT
from unime.errors import DataError

TASKS = ("Gloss-Word", "Word-Gloss", "Example", "Verse")


def report_of(scores: dict[str, float]) -> dict[str, Any]:
    """A report of models with these scores in each task."""

    def entry(score: float) -> dict[str, Any]:
        return {"score": score, "ci95": [score, score], "chance": 0.002}

    models = {
        name: {
            "tasks": {task: entry(score) for task in TASKS},
            "averages": {"micro-1": entry(score)},
            "mean_similarity": 0.5,
            "effective_rank": 100.0 + score,
        }
        for name, score in scores.items()
    }
    averages = {"micro-1": {"label": "micro-1 (mean of tasks)"}}
    tasks: dict[str, Any] = {task: {} for task in TASKS}
    return {"suite": "s", "limit": None, "models": models, "averages": averages, "tasks": tasks}


def test_means_and_differences_within_a_seed() -> None:
    scores = ((0.2, 0.5), (0.3, 0.4), (0.4, 0.9))
    reports = [report_of({"apart": less, "together": more}) for less, more in scores]
    table = collect(reports, "apart", "together")
    apart = table["models"]["apart"]["tasks"]["Gloss-Word"]
    assert apart == {
        "mean": pytest.approx(0.3),
        "sd": pytest.approx(0.1),
        "values": [0.2, 0.3, 0.4],
    }
    difference = table["differences"]["together - apart"]["Gloss-Word"]
    assert difference["values"] == pytest.approx([0.3, 0.1, 0.5])
    assert table["models"]["together"]["effective_rank"]["mean"] == pytest.approx(100.6)


def test_reports_that_do_not_belong_together(tmp_path: Path) -> None:
    one, other = report_of({"apart": 0.1, "together": 0.2}), report_of({"apart": 0.1})
    with pytest.raises(DataError, match="the same models"):
        collect([one, other], "apart", "together")
    with pytest.raises(DataError, match="not both of"):
        collect([other], "apart", "together")
    with pytest.raises(DataError, match="the same limit"):
        collect([one, one | {"limit": 5}], "apart", "together")
    (tmp_path / "report.json").write_text("{}")
    words = [f"{tmp_path}/out.json", "apart", "together", f"{tmp_path}/report.json"]
    with pytest.raises(DataError, match="no reports of one suite"):
        seeds(words)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("tasks", "Gloss-Word", "score"), "together, Gloss-Word: score"),
        (("averages", "micro-1", "score"), "together, micro-1: score"),
        (("mean_similarity",), "together: mean_similarity"),
    ],
)
def test_a_task_that_a_model_did_not_do_is_named(place: tuple[str, ...], said: str) -> None:
    one, other = (report_of({"apart": 0.1, "together": 0.2}) for _ in range(2))
    entry: dict[str, Any] = other["models"]["together"]
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = None
    with pytest.raises(DataError, match=f"^{said} is null"):
        collect([one, other], "apart", "together")


def bounds(cell: str) -> list[float]:
    """Of an interval, as the table has it."""
    return [float(bound) for bound in re.findall(r"[+-][\d.]+", cell)[1:]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The programs that were called; each leaves what the next ones read."""
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, ...]] = []

    def run(module: str, config: str, *settings: str) -> None:
        calls.append((module, config, *settings))
        told = dict(word.split("=", 1) for word in settings)
        if module == "data_prep.real_llm.data":
            real_llm.DATA.mkdir(parents=True, exist_ok=True)
            (real_llm.DATA / "summary.json").write_text("{}")
        elif module == "stages.stage1_distill":
            folder = Path(told["run.output_dir"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.jsonl").write_text('{"step": 60, "loss": 0.1}\n')
            starts = [{"step": step, "commit": commit} for step, commit in ((0, "abc"), (9, "def"))]
            lines = [json.dumps(start) + "\n" for start in starts]
            (folder / "starts.jsonl").write_text("".join(lines))
        elif module == "eval.evaluate":
            folder = Path(told["output_dir"])
            folder.mkdir(parents=True, exist_ok=True)
            right = {"base": 2, "apart": 4, "together": 6}.get(folder.name, 5)  # of 10
            values = [float(place < right) for place in range(9)] + [0.5]
            for task in TASKS:
                (folder / f"{task}.json").write_text(json.dumps({"values": values}))
        elif module == "eval.report":
            found = report_of({"base": 0.1, "apart": 0.2, "together": 0.3})
            Path(told["output"]).write_text(json.dumps(found))

    monkeypatch.setattr(real_llm, "run", run)
    return calls


def test_all_of_it_in_order(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    real_llm.main(["out.json", "wordnet=dict", "seeds=0,7"])
    modules = [call[0].rpartition(".")[2] for call in ran]
    of_seed = ["stage1_distill", "evaluate"] * 2 + ["evaluate", "evaluate", "report"]
    assert modules == ["data", "teacher_embeddings", *of_seed * 2]
    assert ran[0][2:] == ("wordnet=dict",)
    trained = [call[2:] for call in ran if call[0].endswith("distill")]
    assert trained[3] == (
        "run.output_dir=runs/real_llm/seed7/apart",
        "run.seed=7",
        "data.rows_together=false",
    )
    assert trained[0][2] == "data.rows_together=true"
    result = json.loads((tmp_path / "out.json").read_text())
    assert {seed: set(of["steps"]) for seed, of in result["seeds"].items()} == {
        "0": {"together", "apart"}, "7": {"together", "apart"}
    }  # fmt: skip
    assert (
        "| Gloss-Word | 10.0 ± 0.0 | 20.0 ± 0.0 | 30.0 ± 0.0 | +10.0, +10.0 |"
        in (tmp_path / "out.md").read_text()
    )


def test_seeds_one_by_one(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    for seed in ("7", "0", "7"):
        real_llm.main(["out.json", f"seeds={seed}"])
    assert [*json.loads((tmp_path / "out.json").read_text())["seeds"]] == ["0", "7"]
    table = (tmp_path / "out.md").read_text()
    assert "+10.0, +10.0" in table and "runs at commit abc and def" in table
    assert "`python -m benchmarks.real_llm out.json`, seeds 0, 7, runs at commit" in table
    rows = [line.split(" | ") for line in table.partition("in points")[2].splitlines()[2:10]]
    compared = {cells[0].removeprefix("| "): cells[1:] for cells in rows}
    assert [*compared][4:7] == ["in distribution", "out of distribution", "mean of tasks"]
    for cells in list(compared.values())[:7]:
        assert [cell.split()[0] for cell in cells] == ["+20.0", "+40.0", "+10.0", "-10.0"]
        assert "within noise" in cells[2]
    wide = {name: np.ptp(bounds(cells[1])) for name, cells in compared.items() if len(cells) == 4}
    assert wide["in distribution"] == pytest.approx(wide["Gloss-Word"], rel=0.1), "the same pairs"
    assert wide["out of distribution"] == pytest.approx(wide["Verse"] / 2**0.5, rel=0.1)
    other = json.loads((tmp_path / "out.json").read_text()) | {"data": {"words": 5}}
    (tmp_path / "out.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="of other data"):
        real_llm.main(["out.json", "seeds=1"])
    assert json.loads((tmp_path / "out.json").read_text()) == other


@pytest.mark.parametrize("words", [[], ["out.md"], ["out.json", "seed=1"], ["out.json", "0"]])
def test_words_that_it_does_not_know(words: list[str], ran: list[tuple[str, ...]]) -> None:
    with pytest.raises(SystemExit, match=r"python -m benchmarks\.real_llm"):
        real_llm.main(words)
    assert not ran


def test_a_program_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=r"eval\.report ended with 2; the same command goes on"):
        real_llm.run("eval.report", "report", "baseline=nobody")


def test_documents_have_the_result_s_table() -> None:
    for path in real_llm.DOCUMENTS:
        document = (ROOT / path).read_text("utf-8")
        assert "<!-- real_llm: begin -->" in document
        assert real_llm.filled(document, ROOT / real_llm.RESULT) == document, path


def test_the_result_says_one_thing() -> None:
    """Scores of the reports are the means of the queries' scores, and words have the table's
    numbers."""
    result = json.loads((ROOT / real_llm.RESULT).read_text("utf-8"))
    for of in result["seeds"].values():
        for model, tasks in of["values"].items():
            for task, values in tasks.items():
                score = of["report"]["models"][model]["tasks"][task]["score"]
                assert statistics.fmean(map(float, values.split())) == pytest.approx(score)
    tables = real_llm.markdown(result)
    assert (ROOT / real_llm.RESULT.with_suffix(".md")).read_text("utf-8") == tables
    told = re.compile(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)")
    page = (ROOT / "docs/real_llm.md").read_text("utf-8").partition("## What it means")[2]
    about = [page.partition("## What was not measured")[0]]
    for name in ("README.md", "docs/decisions.md"):
        text = (ROOT / name).read_text("utf-8")
        about += [part for part in text.split("\n\n") if "docs/real_llm.md" in part]
    found = [number for text in about for number in told.findall(" ".join(text.split()))]
    assert len(found) > 10 and not [number for number in found if number not in tables]
