"""The report: averages, intervals, and what it refuses to average.

./launch.sh test tests/test_report.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval import report
from eval.suites import load_suite
from unime.config import ConfigError, ReportConfig
from unime.items import DataError

SUITE = {
    "CatsVQA": ("vqa", "ind"),
    "DogsVQA": ("vqa", "ood"),
    "Find": ("retrieval", "ind"),
}
HITS = {"CatsVQA": [1, 1, 0, 0], "DogsVQA": [1, 0, 0, 0], "Find": [1, 1, 1, 1, 1, 1, 1, 0]}


def write_suite(tmp_path: Path) -> Path:
    path = tmp_path / "suite.yaml"
    lines = [f"{t}: {{meta_task: {m}, distribution: {d}}}\n" for t, (m, d) in SUITE.items()]
    path.write_text("".join(lines))
    return path


def result(task: str, hits: list[int]) -> dict[str, Any]:
    return {
        "task": task,
        "meta_task": SUITE[task][0],
        "hits": hits,
        "num_rows": len(hits),
        "chance": 0.25 if task == "Find" else 0.5,
        "mean_similarity": 0.5,
        "effective_rank": len(hits),
        "seconds": 2.0,
        "settings_fingerprint": "s",
        "data_fingerprint": f"data of {task}",
        "model": "some/model",
        "commit": "c1",
    }


def write_results(folder: Path, hits: dict[str, list[int]]) -> Path:
    folder.mkdir(parents=True)
    for task, values in hits.items():
        (folder / f"{task}.json").write_text(json.dumps(result(task, values)))
    return folder


def config(tmp_path: Path, **settings: Any) -> ReportConfig:
    models = {"base": str(tmp_path / "base"), "tuned": str(tmp_path / "tuned")}
    suite, output = str(write_suite(tmp_path)), str(tmp_path / "out/report.json")
    return ReportConfig(**{"models": models, "suite": suite, "output": output} | settings)


@pytest.fixture
def two_models(tmp_path: Path) -> ReportConfig:
    write_results(tmp_path / "base", {task: [0] * len(hits) for task, hits in HITS.items()})
    write_results(tmp_path / "tuned", HITS)
    return config(tmp_path)


def test_averages(two_models: ReportConfig) -> None:
    built = report.build_report(two_models)
    assert built["chance"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    tuned = built["models"]["tuned"]
    means = {key: tuned[key]["hit_at_1"] for key in ("overall", "macro", "ind", "ood")}
    assert means == pytest.approx(
        {
            "overall": (0.5 + 0.25 + 0.875) / 3,
            "macro": ((0.5 + 0.25) / 2 + 0.875) / 2,
            "ind": (0.5 + 0.875) / 2,
            "ood": 0.25,
        }
    )
    assert tuned["ind"]["chance"] == pytest.approx(0.375)
    assert (tuned["ind"]["num_tasks"], tuned["ood"]["num_tasks"]) == (2, 1)
    assert tuned["meta_tasks"]["vqa"]["hit_at_1"] == pytest.approx(0.375)
    assert tuned["tasks"]["Find"]["hit_at_1"] == 0.875
    assert (tuned["tasks"]["Find"]["num_queries"], tuned["tasks"]["Find"]["chance"]) == (8, 0.25)
    assert (tuned["mean_similarity"], tuned["effective_rank"]) == (0.5, pytest.approx(16 / 3))
    assert tuned["seconds"] == 6
    assert built["models"]["base"]["overall"] == {
        "hit_at_1": 0.0, "ci95": [0.0, 0.0], "chance": built["chance"], "num_tasks": 3,
    }  # fmt: skip


def test_intervals_are_those_of_resampled_queries(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    hits = {
        "CatsVQA": random.binomial(1, 0.3, 300).tolist(),
        "DogsVQA": random.binomial(1, 0.6, 200).tolist(),
        "Find": random.binomial(1, 0.5, 100).tolist(),
    }
    write_results(tmp_path / "m", hits)
    settings = config(tmp_path, models={"m": str(tmp_path / "m")}, bootstrap_samples=4000)
    found = report.build_report(settings)["models"]["m"]
    drawn = np.array(
        [
            [random.choice(values, len(values)).mean() for values in hits.values()]
            for _ in range(4000)
        ]
    )
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    assert found["overall"]["ci95"] == pytest.approx([low, high], abs=0.005)
    assert found["tasks"]["Find"]["ci95"] == pytest.approx(
        np.quantile(drawn[:, 2], [0.025, 0.975]), abs=0.015
    )
    assert found["overall"]["ci95"][0] < found["overall"]["hit_at_1"] < found["overall"]["ci95"][1]
    assert report.build_report(settings)["models"]["m"] == found
    settings.seed = 1
    assert report.build_report(settings)["models"]["m"] != found


def test_the_program_prints_and_writes(
    two_models: ReportConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = f"{{base: {tmp_path}/base, tuned: {tmp_path}/tuned}}"
    path = tmp_path / "report.yaml"
    path.write_text(f"models: {models}\nsuite: {two_models.suite}\noutput: {two_models.output}\n")
    report.main(["--config", str(path)])
    printed = capsys.readouterr().out
    for words in ("CatsVQA", "mean of retrieval", "overall", "54.2", "base", "tuned"):
        assert words in printed
    written = json.loads(Path(two_models.output).read_text())
    assert written == report.build_report(two_models)
    table = Path(two_models.output).with_suffix(".md").read_text().splitlines()
    assert table[:2] == ["|  | chance | base | tuned |", "| --- | ---: | ---: | ---: |"]
    assert "| CatsVQA | 50.0 | 0.0 [0.0, 0.0] | 50.0 [0.0, 100.0] |" in table
    assert any(line.startswith("| overall (mean of tasks) | 41.7 |") for line in table)
    assert {line.count("|") for line in table} == {5}
    assert sorted(p.name for p in Path(two_models.output).parent.iterdir()) == [
        "report.json",
        "report.md",
    ]


def test_a_narrow_terminal_shows_all_of_every_number(
    two_models: ReportConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    built = report.build_report(two_models)
    report.print_table("hit@1", built, Console(width=60))
    narrow = capsys.readouterr().out
    assert "…" not in narrow and "[" not in narrow.split("overall: ")[0]
    low, high = (f"{100 * end:.1f}" for end in built["models"]["base"]["overall"]["ci95"])
    assert f"base [{low}, {high}]" in narrow
    report.print_table("hit@1", built, Console(width=160))
    assert f"[{low}, {high}]" in capsys.readouterr().out


def test_a_suite_without_ood_tasks(tmp_path: Path) -> None:
    write_results(tmp_path / "m", {"Find": HITS["Find"]})
    settings = config(tmp_path, models={"m": str(tmp_path / "m")})
    Path(settings.suite).write_text("Find: {meta_task: retrieval, distribution: ind}\n")
    built = report.build_report(settings)
    assert built["models"]["m"]["ood"] is None
    assert [row[0] for row in report.table_sections(built)[1][2]] == [
        "in distribution",
        "macro (mean of meta-tasks)",
        "overall (mean of tasks)",
    ]


def limited_results(folder: Path, limit: int, **hits: list[int]) -> None:
    """Tasks of 4, 4 and 8 rows, the first `limit` of them evaluated."""
    write_results(folder, {task: hits.get(task, found[:limit]) for task, found in HITS.items()})
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text()) | {"num_rows": len(HITS[path.stem])}
        path.write_text(json.dumps(found))


@pytest.mark.parametrize("limit", [3, 4, 7])
def test_limited_results_are_marked(
    tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_results(tmp_path / "m", limit)
    settings = config(tmp_path, models={"m": str(tmp_path / "m")})
    assert report.build_report(settings)["limit"] == limit
    (tmp_path / "report.yaml").write_text(
        f"models: {settings.models}\nsuite: {settings.suite}\noutput: {settings.output}\n"
    )
    report.main(["--config", str(tmp_path / "report.yaml")])
    words = f"only the first {limit} queries of each task"
    assert words in " ".join(capsys.readouterr().out.split())
    assert words in Path(settings.output).with_suffix(".md").read_text()
    limited_results(tmp_path / "all", 8)
    settings.models = {"m": str(tmp_path / "all")}
    assert report.build_report(settings)["limit"] is None


def test_different_limits_are_not_averaged(tmp_path: Path) -> None:
    settings = config(tmp_path, models={"m": str(tmp_path / "m")})
    limited_results(tmp_path / "m", 3, Find=HITS["Find"])
    with pytest.raises(DataError, match="CatsVQA has the first 3 of 4 queries, task Find 8 of 8;"):
        report.build_report(settings)
    limited_results(tmp_path / "n", 3, Find=HITS["Find"][:5])
    settings.models = {"n": str(tmp_path / "n")}
    with pytest.raises(DataError, match="Find has the first 5 of 8 queries, task CatsVQA 3 of 4;"):
        report.build_report(settings)


def test_every_commit_is_listed(two_models: ReportConfig, tmp_path: Path) -> None:
    change("Find", commit="c2")(tmp_path)
    models = report.build_report(two_models)["models"]
    assert {name: model["commits"] for name, model in models.items()} == {
        "base": ["c1"], "tuned": ["c1", "c2"],
    }  # fmt: skip


def change(file: str, **values: Any) -> Callable[[Path], object]:
    def write(tmp_path: Path) -> None:
        path = tmp_path / f"tuned/{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return write


BAD_RESULTS = [
    (lambda p: (p / "tuned/Find.json").unlink(),
     "model 'tuned': 1 of 3 tasks have no result in ROOT/tuned: Find; evaluate them first"),
    (lambda p: (p / "base").rename(p / "elsewhere"),
     "model 'base': 3 of 3 tasks have no result in ROOT/base: CatsVQA, DogsVQA, Find"),
    (lambda p: (p / "tuned/Find.json").write_text('{"hits": [1'),
     "ROOT/tuned/Find.json: not a result of eval.mmeb: "),
    (lambda p: (p / "tuned/Find.json").write_text("[]"), "expected an object"),
    (lambda p: (p / "tuned/Find.json").write_text('{"acc": 0.5}'),
     "ROOT/tuned/Find.json: not a result of eval.mmeb: task is None"),
    (change("Find", task="DogsVQA"), "Find.json: holds the result of task 'DogsVQA'"),
    (change("Find", hits=[]), "hits are not a list of 0 and 1"),
    (change("Find", hits=[1, 2]), "hits are not a list of 0 and 1"),
    (change("Find", chance="low"), "not a result of eval.mmeb: chance is 'low'"),
    (change("Find", settings_fingerprint="t"),
     "model 'tuned': ROOT/tuned holds results of different settings or models, such as DogsVQA"),
    (change("Find", data_fingerprint="d", hits=[1] * 7),
     "task Find: models 'base' and 'tuned' were evaluated on different data (8 and 7 queries)"),
    (change("CatsVQA", num_rows="4"), "not a result of eval.mmeb: num_rows is '4'"),
    (change("CatsVQA", num_rows=3), "not a result of eval.mmeb: 4 hits of 3 rows"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD_RESULTS)
def test_results_that_cannot_be_averaged(
    two_models: ReportConfig, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(tmp_path)
    with pytest.raises(DataError) as error:
        report.build_report(two_models)
    assert message.replace("ROOT", str(tmp_path)) in str(error.value)


# Suites ------------------------------------------------------------------------------------------


def test_the_suite_of_mmeb() -> None:
    path = Path(__file__).parent.parent / "configs/suites/mmeb.yaml"
    suite = load_suite(str(path))
    assert len(suite) == 36
    assert Counter(task.meta_task for task in suite.values()) == {
        "classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4,
    }  # fmt: skip
    assert Counter(task.distribution for task in suite.values()) == {"ind": 20, "ood": 16}
    ood = {name for name, task in suite.items() if task.distribution == "ood"}
    assert ood == set(
        "Place365 ImageNet-A ImageNet-R ObjectNet Country211 ScienceQA VizWiz GQA TextVQA FashionIQ"
        " Wiki-SS-NQ OVEN EDIS RefCOCO RefCOCO-Matching Visual7W-Pointing".split()
    )


def test_a_selection_of_tasks(tmp_path: Path) -> None:
    path = str(write_suite(tmp_path))
    assert list(load_suite(path, ["Find", "CatsVQA"])) == ["CatsVQA", "Find"]
    with pytest.raises(ConfigError, match=r"no task 'Finds'; the nearest is 'Find'"):
        load_suite(path, ["Finds"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: {meta_task: vqa}", "A: got {'meta_task': 'vqa'}, expected meta_task and distribution"),
        ("A: {meta_task: vqa, distribution: both}", "A.distribution: got 'both', expected ind or"),
        ("A: vqa", "A: got 'vqa', expected meta_task"),
        ("[A, B]", "not a suite of tasks"),
        ("A: {", "not a suite of tasks"),
        ("", "not a suite of tasks"),
        (None, "not a suite of tasks"),
    ],
)
def test_bad_suites(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "suite.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_suite(str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
