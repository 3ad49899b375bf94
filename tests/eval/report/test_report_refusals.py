"""What a report refuses: results that cannot be averaged, settings and suites that make no sense.

./launch.sh test tests/eval/report/test_report_refusals.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eval.report import build as report
from eval.tasks.suites import load_suite
from tests.eval.report.conftest import HITS, change, config, play, write_suite
from tests.support.paths import ROOT
from tests.support.results import result_json, write_result
from unime.config import ReportConfig, build_config
from unime.errors import ConfigError, DataError


def limited_results(folder: Path, limit: int, **limits: int) -> None:
    """Tasks of 4, 4 and 8 rows, the first `limit` of them evaluated."""
    for task, hits in HITS.items():
        own = limits.get(task, limit)
        data = {"data": {"limit": own}}
        write_result(folder, result_json(task, hits[:own], num_rows=len(hits), config=data))


@pytest.mark.parametrize("limit", [3, 4, 7])
def test_limited_results_are_marked(
    tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_results(tmp_path / "m", limit)
    settings = config(tmp_path, names=["m"])
    assert report.build_report(settings)["limit"] == limit
    play(settings)
    words = f"only the first {limit} queries of each task"
    assert words in " ".join(capsys.readouterr().out.split())
    assert words in Path(settings.output).with_suffix(".md").read_text()
    limited_results(tmp_path / "all", 8)  # cuts nothing
    settings.models = {"m": str(tmp_path / "all")}
    assert report.build_report(settings)["limit"] is None


def test_different_limits_are_not_averaged(tmp_path: Path) -> None:
    settings = config(tmp_path, names=["m"])
    limited_results(tmp_path / "m", 3, Find=8)
    with pytest.raises(DataError, match="CatsVQA has the first 3 of 4 queries, task Find 8 of 8;"):
        report.build_report(settings)
    limited_results(tmp_path / "n", 3, Find=5)
    settings.models = {"n": str(tmp_path / "n")}
    with pytest.raises(DataError, match="Find has the first 5 of 8 queries, task CatsVQA 3 of 4;"):
        report.build_report(settings)


REFUSED = "ROOT/tuned/Find.json: not a result of an evaluation: "
BAD_RESULTS = [
    (lambda p: (p / "tuned/Find.json").unlink(),
     "model 'tuned': 1 of 3 tasks have no result in ROOT/tuned: Find; evaluate them first"),
    (lambda p: (p / "base").rename(p / "elsewhere"),
     "model 'base': 3 of 3 tasks have no result in ROOT/base: CatsVQA, DogsVQA, Find"),
    (lambda p: (p / "tuned/Find.json").write_text('{"values": [1'),
     "ROOT/tuned/Find.json: cannot read it: Expecting"),
    (lambda p: (p / "tuned/Find.json").write_text("[]"),
     "ROOT/tuned/Find.json: expected a JSON object"),
    (lambda p: (p / "tuned/Find.json").write_text('{"acc": 0.5}'), REFUSED + "task is None"),
    (change("tuned/Find", task="DogsVQA"), "Find.json: holds the result of task 'DogsVQA'"),
    (change("tuned/Find", metric="ndcg_linear@5", metrics={"ndcg_linear@5": 0.875}),
     "ROOT/tuned/Find.json: scored by ndcg_linear@5, the suite says hit@1"),
    (change("tuned/Find", values=[]), REFUSED + "values are not numbers in [0, 1]"),
    (change("tuned/Find", values=[1, 2]), REFUSED + "values are not numbers in [0, 1]"),
    (change("tuned/Find", values=["1"]), REFUSED + "values[0] is '1'"),
    (change("tuned/Find", values=[1, float("nan")]), REFUSED + "values[1] is nan"),
    (change("tuned/Find", chance="x"), REFUSED + "chance is 'x'"),
    (change("tuned/Find", left_out=5), REFUSED + "left_out is 5"),
    (change("tuned/Find", tied_queries=True), REFUSED + "tied_queries is True"),
    (change("tuned/Find", tied_queries=None),  # of the older rule, which gave the right one all
     REFUSED + "tied_queries is None; evaluate again"),
    (change("tuned/Find", num_items=16.0), REFUSED + "num_items is 16.0"),
    (change("tuned/Find", seconds=float("inf")), REFUSED + "seconds is inf"),
    (change("tuned/Find", metrics={}), REFUSED + "metrics have no hit@1"),
    (change("tuned/Find", metrics={"hit@1": "a"}), REFUSED + "metrics['hit@1'] is 'a'"),
    (change("tuned/Find", metrics={"hit@1": float("nan")}), REFUSED + "metrics['hit@1'] is nan"),
    (change("tuned/Find", metrics={"hit@1": 50.5}), REFUSED + "metrics are not numbers in [0, 1]"),
    (change("tuned/Find", values=[0.5]), REFUSED + "1 values of hit@1 are neither 0 nor 1, of"),
    (change("tuned/Find", score=0.5), REFUSED + "score is 0.5, the mean of its values 0.875"),
    (change("tuned/Find", score="good"), REFUSED + "score is 'good'"),
    (change("tuned/Find", not_supported=None, score=None), REFUSED + "score is None"),
    (change("tuned/Find", settings_fingerprint="t"),
     "model 'tuned': ROOT/tuned holds results of different settings or models, such as DogsVQA"),
    (change("tuned/Find", data_fingerprint="d", values=[1] * 7, num_queries=7, score=1),
     "task Find: models 'base' and 'tuned' were evaluated on different data (8 and 7 queries)"),
    (change("tuned/Find", num_rows="4"), REFUSED + "num_rows is '4'"),
    (change("tuned/Find", num_rows=3), REFUSED + "8 values of 8 queries in 3 rows"),
    (change("tuned/Find", num_queries=8.0), REFUSED + "num_queries is 8.0"),
    (change("tuned/Find", num_queries=7), REFUSED + "8 values of 7 queries in 8 rows"),
    (change("tuned/Find", config={}), REFUSED + "config.data.limit is not there"),
    (change("tuned/Find", config={"data": {"limit": 0}}), REFUSED + "config.data.limit is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD_RESULTS)
def test_results_that_cannot_be_averaged(
    two_models: ReportConfig, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(tmp_path)
    with pytest.raises(DataError) as error:
        report.build_report(two_models)
    assert message.replace("ROOT", str(tmp_path)) in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("baseline=other", "baseline: got 'other', expected one of models: base, stage1, st"),
        ("leaderboard={other: {model_name: M}}", "leaderboard: got 'other', expected one of mod"),
        ("leaderboard={base: {url: u}}", "leaderboard.base: got '', expected a file's name in mod"),
        ("leaderboard={base: {model_name: a/b}}", "leaderboard.base: got 'a/b', expected a file's"),
        ("output=runs/report.md", "output: got 'runs/report.md', expected a name that ends in .j"),
        ("output=runs/report", "output: got 'runs/report', expected a name that ends in .json"),
        ("output=r/a.json & html=r/a.md", "html: got 'r/a.md', expected another file than that of"),
        (
            "output=r/a.json & html=r/../r/a.json",
            "html: got 'r/../r/a.json', expected another file",
        ),
        ("output=r/a.json & leaderboard={base: {model_name: a}}", "leaderboard.base: got 'r/a.js"),
        (
            "leaderboard={base: {model_name: M}, stage1: {model_name: M}}",
            "expected another file than that of leaderboard.base",
        ),
    ],
)
def test_settings_that_make_no_sense(words: str, message: str) -> None:
    path = ROOT / "configs/report/qwen2-vl-2b.yaml"
    with pytest.raises(ConfigError) as error:
        build_config(ReportConfig, path, words.split(" & "))
    assert message in str(error.value)


def test_a_selection_of_tasks(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    assert list(load_suite(path, ["Find", "CatsVQA"])) == ["CatsVQA", "Find"]
    with pytest.raises(ConfigError, match=r"no task 'Finds'; the nearest is 'Find'"):
        load_suite(path, ["Finds"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: {distribution: ind}", "A: got {'distribution': 'ind'}, expected meta_task and dist"),
        ("A: {meta_task: vqa, distribution: both}", "A.distribution: got 'both', expected ind or"),
        ("A: {meta_task: null}", "A.meta_task: got None, expected a name"),
        ("A: {meta_task: [a, b]}", "A.meta_task: got ['a', 'b'], expected a name"),
        ("A: {meta_task: a, modality: ../b}", "A.modality: got '../b', expected a name without"),
        ("A: {meta_task: a, modality: .., metric: hit@1}", "A.modality: got '..', expected a name"),
        ("A: {meta_task: a, modality: .lock}", "A.modality: got '.lock', expected a name"),
        ("A: {meta_task: a, modality: config.yaml}", "A.modality: got 'config.yaml', expected a n"),
        ("A: {meta_task: a, modality: embeddings}", "other than embeddings"),
        ("A: {meta_task: ../a}", "A.meta_task: got '../a', expected a name without slashes"),
        ("A/B: {meta_task: a}", "a task's name: got 'A/B', expected a name without slashes"),
        ("'B/../../C: x': {meta_task: a}", "a task's name: got 'B/../../C: x', expected a name"),
        ("'A\\B': {meta_task: a}", "a task's name: got "),
        ('"A\\0B": {meta_task: a}', "a task's name: got "),
        (f"{'A' * 300}: {{meta_task: a}}", "a task's name: got 'AAA"),
        ("include: [suite.yaml]", "it is included twice, or by itself"),
        ("include: [other.yaml, other.yaml]", "it is included twice, or by itself"),
        ('include: ["a\\0b"]', "not a suite of tasks: "),
        ("A: {meta_task: a, revision: 4e53218}", "A.revision: got 4e53218, expected a text, or nu"),
        (
            "A: {meta_task: a, split: 1.10}",
            "A.split: got 1.10, expected a text: write it in quotes",
        ),
        ("A: {meta_task: a, num_queries: many}", "A.num_queries: got 'many', expected a positive"),
        ("A: {meta_task: a, num_queries: 0}", "A.num_queries: got 0, expected a positive number"),
        ("A: {meta_task: a, subset: [b]}", "A.subset: got '[b]', expected a text, or null"),
        ("A: {meta_task: a}\nA: {meta_task: b}", "A: got 'two values', expected one"),
        ("include: [1]\nA: {meta_task: a}", "include: got [1], expected a list of other suites"),
        (".a: {meta_task: a}", "no task: names that begin with a dot are none"),
        ("A: vqa", "A: got 'vqa', expected meta_task"),
        ("[A, B]", "not a suite of tasks"),
        ("A: {", "not a suite of tasks"),
        ("", "not a suite of tasks"),
        (None, "not a suite of tasks"),
    ],
)
def test_bad_suites(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "suite.yaml"
    (tmp_path / "other.yaml").write_text("B: {meta_task: a}")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_suite(str(path))
    assert str(tmp_path) in str(error.value) and len(str(error.value)) < 1000
    assert message in str(error.value)
