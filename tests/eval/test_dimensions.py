"""A model at several sizes of its vectors: scored from one encoding, in the results and the report.

./launch.sh test tests/eval/test_dimensions.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.miniatures.mmeb import write_eval_suite
from eval.report.build import build_report
from eval.report.printing import markdown_report, print_report
from eval.results import TaskResult
from eval.tasks.mmeb_v1 import read_mmeb
from tests.eval.report.conftest import HITS, config, write_results
from tests.eval.test_evaluation import TASKS, evaluate, results, write_config
from tests.support.results import result_json
from unime import Embedder
from unime.errors import ConfigError, DataError
from unime.retrieval import stored


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    write_eval_suite(folder / "data", folder / "suite.yaml")
    write_config(folder, tiny_model("qwen2_vl"), "none")
    evaluate(folder, "dimensions=[8,4]")
    return folder


def test_every_size_is_scored_from_one_encoding(
    evaluated: Path, tiny_model: Callable[..., Path]
) -> None:
    """As `Embedder.encode(dimensions=…)` ranks, query by query."""
    embedder = Embedder(tiny_model("qwen2_vl"), device="cpu")
    for task, result in results(evaluated / "out").items():
        sizes = result["dimensions"]
        assert list(sizes) == ["4", "8", str(embedder.dimension)]
        assert sizes[str(embedder.dimension)] == {key: result[key] for key in sizes["4"]}
        rows = read_mmeb(str(evaluated / "data"), task)
        for size in (4, 8):
            hits = []
            for query, candidates in zip(rows.queries, rows.candidate_items(), strict=True):
                vectors = embedder.encode([query, *candidates], dimensions=size)
                hits.append(float(np.argmax(vectors[1:] @ vectors[0]) == 0))
            assert sizes[str(size)]["values"] == hits
            assert sizes[str(size)]["metrics"].keys() == result["metrics"].keys()
    found = [entry["dimensions"] for entry in results(evaluated / "out").values()]
    assert any(entry["4"]["values"] != entry["8"]["values"] for entry in found)


def test_other_sizes_encode_nothing(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is not even loaded; the same sizes are kept; sizes that are not there are refused
    by name, and leave what is there."""

    def load(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(stored, "load_embedder", load)
    evaluate(evaluated, "dimensions=[8,4]")
    assert capsys.readouterr().out.count("(kept)") == len(TASKS)
    evaluate(evaluated, "dimensions=[2]")
    printed = capsys.readouterr().out
    assert "(kept)" not in printed and "; by dimensions 2: " in printed
    for result in results(evaluated / "out").values():
        assert result["num_encoded"] == 0 and list(result["dimensions"])[0] == "2"
    with pytest.raises(ConfigError, match="dimensions: got 999, expected at most"):
        evaluate(evaluated, "dimensions=[999]")
    evaluate(evaluated)
    assert all(result["dimensions"] is None for result in results(evaluated / "out").values())


def test_a_size_that_is_not_there_is_refused_before_encoding(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(stored.StoredModel, "encode", encode)
    with pytest.raises(ConfigError, match="dimensions: got 999, expected at most"):
        evaluate(evaluated, "dimensions=[999]", f"output_dir={tmp_path}/new")


def of_size(values: list[float]) -> dict[str, Any]:
    score = sum(values) / len(values)
    return {"score": score, "ci95": [score, score], "values": values, "metrics": {"hit@1": score}}


def test_the_report_has_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Averages of what each size has; a model without sizes, as old results are, has no row."""
    write_results(tmp_path / "base", HITS)
    for path in (tmp_path / "base").glob("*.json"):
        old = json.loads(path.read_text())
        del old["dimensions"]
        path.write_text(json.dumps(old))
        assert TaskResult.from_json(path).scores is not None
    for task, values in HITS.items():
        fewer = [0.0] * len(values)
        sizes = {"16": of_size([float(v) for v in values]), "4": of_size(fewer)}
        if task == "Find":
            sizes["8"] = of_size(fewer)  # no average has it
        write_results(tmp_path / "tuned", {task: values}, dimensions=sizes)
    report = build_report(config(tmp_path))
    assert report["models"]["base"]["dimensions"] == {}
    curves = report["models"]["tuned"]["dimensions"]
    average = report["models"]["tuned"]["averages"]["micro-3"]
    assert list(curves["micro-3"]) == ["4", "16"]
    scores = [entry["score"] for entry in curves["micro-3"].values()]
    assert scores == [0.0, pytest.approx(average["score"])]
    assert list(curves["Find"]) == ["4", "8", "16"]
    assert curves["micro-3"]["16"]["ci95"] == average["ci95"]
    table = markdown_report(report).partition("| dimensions | 4 | 16 |")[2]
    assert table.splitlines()[2].startswith("| tuned | 0.0 [0.0, 0.0] | 54.2 [")
    print_report(report)
    assert "tuned  0.0 [0.0, 0.0]  54.2 [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"x": of_size([1, 0])}, "no size"),
        ({"4": of_size([1, 0, 1])}, "3 values of 2 queries"),
        ({"4": of_size([1, 0]) | {"score": 0.9}}, "the mean of its values"),
        ({"4": of_size([1, 7])}, "not numbers in"),
        ({"4": {"score": 1.0}}, "ci95 is None"),
    ],
)
def test_a_damaged_result_is_refused(sizes: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "T.json"
    path.write_text(json.dumps(result_json("T", [1, 0], dimensions=sizes)))
    with pytest.raises(DataError, match=reason):
        TaskResult.from_json(path)
