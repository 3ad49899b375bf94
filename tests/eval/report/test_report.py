"""What a report says: numbers, what a model cannot do, what makes its scores doubtful.

./launch.sh test tests/eval/report/test_report.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.remarks import warnings_of_report
from eval.report import build as report
from eval.report.printing import markdown_report
from eval.tasks.suites import load_suite
from tests.eval.report.conftest import (
    FAMILY,
    HITS,
    SUITE,
    Values,
    change,
    config,
    play,
    write_results,
)
from tests.support.paths import ROOT
from unime.config import ReportConfig
from unime.errors import DataError


def test_averages(two_models: ReportConfig) -> None:
    built = report.build_report(two_models)
    assert (built["overall"], built["num_tasks"]) == ("micro-3", 3)
    assert built["chance"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    tuned = built["models"]["tuned"]
    assert {key: entry["score"] for key, entry in tuned["averages"].items()} == pytest.approx(
        {
            "image/vqa": 0.375,
            "image/retrieval": 0.875,
            "image-ind": (0.5 + 0.875) / 2,
            "image-ood": 0.25,
            "macro-2": ((0.5 + 0.25) / 2 + 0.875) / 2,
            "micro-3": (0.5 + 0.25 + 0.875) / 3,
        }
    )
    ind = tuned["averages"]["image-ind"]
    assert (ind["num_tasks"], ind["chance"], ind["missing"]) == (2, pytest.approx(0.375), [])
    assert built["averages"]["macro-2"] == {
        "label": "macro-2 (mean of meta-tasks)", "kind": "macro", "modality": "image",
        "parts": ["image/vqa", "image/retrieval"], "tasks": ["CatsVQA", "DogsVQA", "Find"],
        "metrics": ["hit@1"],
    }  # fmt: skip
    assert built["tasks"]["Find"] == {
        "modality": "image", "meta_task": "retrieval", "distribution": "ind", "metric": "hit@1",
        "chance": 0.25,
    }  # fmt: skip
    find = tuned["tasks"]["Find"]
    assert (find["score"], find["num_queries"], find["num_correct"]) == (0.875, 8, 7)
    assert (tuned["mean_similarity"], tuned["effective_rank"]) == (0.5, pytest.approx(16 / 3))
    assert tuned["seconds"] == 6 and tuned["encoder"] == "unime"
    base = built["models"]["base"]["averages"]["micro-3"]
    assert (base["score"], base["ci95"]) == (0, [0, 0])


def test_intervals_are_those_of_resampled_queries(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    shares = {"CatsVQA": (0.3, 300), "DogsVQA": (0.6, 200), "Find": (0.5, 100)}
    hits = {task: random.binomial(1, *share).tolist() for task, share in shares.items()}
    write_results(tmp_path / "m", hits)
    settings = config(tmp_path, names=["m"], bootstrap_samples=4000)
    found = report.build_report(settings)["models"]["m"]
    cats, dogs, find = (
        random.choice(values, (4000, len(values))).mean(axis=1) for values in hits.values()
    )
    overall = found["averages"]["micro-3"]
    for entry, drawn, near in (
        (overall, (cats + dogs + find) / 3, 0.005),
        (found["averages"]["macro-2"], ((cats + dogs) / 2 + find) / 2, 0.006),
        (found["tasks"]["Find"], find, 0.015),
    ):
        assert entry["ci95"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=near)
    assert overall["ci95"][0] < overall["score"] < overall["ci95"][1]
    assert report.build_report(settings)["models"]["m"] == found
    settings.seed = 1
    assert report.build_report(settings)["models"]["m"] != found


def test_models_are_compared_query_by_query(tmp_path: Path) -> None:
    """Every difference from the same values; two runs that are alike differ by nothing."""
    other = {"CatsVQA": [1, 0, 0, 0], "DogsVQA": [1, 1, 1, 0], "Find": HITS["Find"]}
    write_results(tmp_path / "base", HITS)
    write_results(tmp_path / "tuned", other)
    write_results(tmp_path / "again", HITS)
    settings = config(tmp_path, names=["base", "tuned", "again"], baseline="base")
    paired = report.build_report(settings)["paired"]
    assert list(paired) == ["tuned|base", "again|base"]
    tuned, again = paired.values()
    assert {task: entry["difference"] for task, entry in tuned["tasks"].items()} == {
        "CatsVQA": -0.25, "DogsVQA": 0.5, "Find": 0.0,
    }  # fmt: skip
    micro = tuned["averages"]["micro-3"]
    assert micro["difference"] == pytest.approx(0.25 / 3)
    assert micro["ci95"][0] < 0 < micro["ci95"][1] and 0.1 < micro["p"] <= 1
    for group in ("tasks", "averages"):
        assert set(again[group]) == set(tuned[group])
        for entry in again[group].values():
            assert (entry["difference"], entry["ci95"], entry["p"]) == (0, [0, 0], 1)


def test_a_difference_of_every_query_is_certain(tmp_path: Path) -> None:
    suite = {"Pages": FAMILY["Pages"]}
    write_results(tmp_path / "base", {"Pages": [0.1, 0.2, 0.5, 0.7]})
    write_results(tmp_path / "tuned", {"Pages": [0.2, 0.3, 0.6, 0.8]})
    built = report.build_report(config(tmp_path, suite, baseline="base"))
    entry = built["paired"]["tuned|base"]["averages"]["visdoc-1"]
    assert entry["difference"] == pytest.approx(0.1)
    assert entry["ci95"] == pytest.approx([0.1, 0.1])
    assert entry["p"] == pytest.approx(2 / 2001)
    found = built["models"]["tuned"]["tasks"]["Pages"]
    assert "num_correct" not in found and found["metric"] == "ndcg_linear@5"


def test_every_commit_is_listed(two_models: ReportConfig, tmp_path: Path) -> None:
    change("tuned/Find", commit="c2")(tmp_path)
    models = report.build_report(two_models)["models"]
    assert {name: model["commits"] for name, model in models.items()} == {
        "base": ["c1"], "tuned": ["c1", "c2"],
    }  # fmt: skip


def test_tasks_that_a_model_cannot_do(family: ReportConfig) -> None:
    built = report.build_report(family)
    base, tuned = built["models"].values()
    assert tuned["tasks"]["Clips"] == {
        "score": None, "not_supported": "this model takes no videos", "chance": 0.5,
    }  # fmt: skip
    for key in ("video-1", "all-3"):
        assert base["averages"][key]["score"] is not None
        entry = tuned["averages"][key]
        assert (entry["score"], entry["ci95"], entry["missing"]) == (None, None, ["Clips"])
    assert built["overall"] == "all-3" and built["chance"] == 0.5
    same = ("micro-1", "visdoc-1", "retrieval/short_retrieval", "compositional")
    assert all(tuned["averages"][key] == base["averages"][key] for key in same)
    assert (tuned["mean_similarity"], tuned["effective_rank"]) == (None, None)
    assert tuned["seconds"] == 14


def test_no_average_is_compared_that_one_model_lacks(family: ReportConfig) -> None:
    family.baseline = "base"
    paired = report.build_report(family)["paired"]["tuned|base"]
    assert "Clips" not in paired["tasks"] and len(paired["tasks"]) == len(FAMILY) - 1
    assert not {"video-1", "all-3"} & paired["averages"].keys()
    assert paired["averages"]["micro-1"]["p"] == 1


def test_a_missing_result_is_no_task_that_a_model_cannot_do(
    family: ReportConfig, tmp_path: Path
) -> None:
    (tmp_path / "tuned/Clips.json").unlink()
    with pytest.raises(DataError, match="model 'tuned': 1 of 8 tasks have no result in .*: Clips;"):
        report.build_report(family)


def test_the_table_of_a_family_of_tasks(family: ReportConfig) -> None:
    family.baseline = "base"
    built = report.build_report(family)
    lines = markdown_report(built).splitlines()
    first = lines[: lines.index("- tuned cannot do 1 of 8 tasks (–): this model takes no videos")]
    rows = {line.split(" | ")[0][2:].strip(): line for line in first if line.startswith("| ")}
    assert rows["visdoc: ndcg_linear@5"] and rows["image: hit@1"]
    assert rows["Clips"] == "| Clips | 50.0 | 75.0 [25.0, 100.0] | – |"
    assert rows["video-1 (mean of tasks)"].endswith("| – (1) |")
    assert rows["all-3 (mean of tasks)"].endswith("| – (1) |")
    assert rows["R@5"] == "|   R@5 |  | 87.5 | 87.5 |"
    assert rows["right of 4"] == "|   right of 4 |  | 3 | 3 |"
    assert "compositional (mean of add, swap)" in rows
    assert rows["mean similarity"] == "| mean similarity |  | 0.500 | – |"
    assert "- – (n): no average, n of its tasks are missing; the JSON names them" in lines
    assert "| F_t2i | +0.0 [+0.0, +0.0] p 1 |" in lines and "| Clips | – |" not in lines
    assert sum(line.startswith("|   R@10 ") for line in lines) == 3


@pytest.mark.parametrize(
    ("modality", "expected", "of_a_baseline"),
    [
        ("image", ["max_tiles"], {}),
        ("video", ["num_frames", "max_tiles"], {"prompt": None, "max_tiles": None}),
    ],
)
def test_settings_that_differ_are_named(
    tmp_path: Path, modality: str, expected: list[str], of_a_baseline: dict[str, None]
) -> None:
    """A zero is a value; what a baseline lacks, or has a null for, does not differ."""
    inputs = {"prompt": "unime", "num_frames": 8, "max_tiles": 0}
    other = inputs | {"num_frames": 64, "max_tiles": 16}
    write_results(tmp_path / "base", HITS, inputs=inputs)
    write_results(tmp_path / "tuned", HITS, inputs=other)
    write_results(tmp_path / "clip", HITS, inputs=of_a_baseline)
    suite = dict.fromkeys(SUITE, f"{{meta_task: a, modality: {modality}}}")
    settings = config(tmp_path, suite, ["base", "tuned", "clip"])
    built = report.build_report(settings)
    pairs = {key: {"base": inputs[key], "tuned": other[key]} for key in expected}
    assert built["differing_settings"] == pairs
    line = "not strictly comparable: the models differ in max_tiles (base 0, tuned 16)"
    assert line in markdown_report(built)
    del settings.models["tuned"]
    assert "comparable" not in markdown_report(report.build_report(settings))


def test_a_wrong_result_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Collapse, scores at and below chance, ties; of a model that is fine nothing."""
    values: Values = {task: [0.5] * 40 for task in SUITE}
    signs = {"mean_similarity": 0.999, "effective_rank": 2.9, "num_items": 64}
    write_results(tmp_path / "base", values, tied_queries=40, **signs)
    write_results(tmp_path / "tuned", {task: [1] * 38 + [0] * 2 for task in SUITE})
    change("base/DogsVQA", score=0, values=[0] * 40, tied_queries=0)(tmp_path)
    settings = config(tmp_path)
    play(settings)
    printed = " ".join(capsys.readouterr().out.split())
    found = json.loads(Path(settings.output).read_text())
    text = Path(settings.output).with_suffix(".md").read_text()
    assert found["models"]["tuned"]["warnings"] == []
    warnings = found["models"]["base"]["warnings"]
    for words in (
        "collapsed: 64 different items are hardly told apart (mean similarity 0.999",
        "below chance on 1 of 3 tasks: DogsVQA 0.0% (chance 50.0%)",
        "not above chance on 1 of 3 tasks: CatsVQA 50.0% (chance 50.0%)",
        "tied scores on 2 of 3 tasks: CatsVQA 40 of 40 queries, Find 40 of 40 queries",
        "the average micro-3 is not above chance: 33.3% (chance 41.7%)",
    ):
        assert words in text and words in printed, words
        assert any(words in sentence for sentence in warnings), words
    assert text.startswith("- **warning**: base: collapsed"), "before any number"
    assert warnings_of_report(found, "base") == warnings
    assert warnings_of_report(found) == [f"base: {sentence}" for sentence in warnings]
    tuned = replace(settings, models={"tuned": settings.models["tuned"]})
    assert "warning" not in markdown_report(report.build_report(tuned))


@pytest.mark.parametrize(
    ("suite", "prompt", "said"),
    [
        ("retrieval", "unime", ""),
        ("retrieval", "vlm2vec", "yours m: vlm2vec"),
        ("retrieval_instruct", "unime", "yours suite with instructions"),
    ],
)
def test_rows_of_other_prompts_are_noted(
    tmp_path: Path, suite: str, prompt: str, said: str
) -> None:
    path = f"configs/suites/{suite}.yaml"
    inputs = {"prompt": prompt}
    write_results(tmp_path / "m", dict.fromkeys(load_suite(path), [1, 0]), inputs=inputs)
    built = report.build_report(ReportConfig({"m": str(tmp_path / "m")}, path, output="r.json"))
    note = built["published"]["unime-retrieval"]["note"]
    assert note.endswith(said) and bool(note) == bool(said)
    assert (f"- {note}" in markdown_report(built)) or not said


def test_data_that_are_not_the_benchmarks_are_noted(tmp_path: Path) -> None:
    suite = {"K700": "{meta_task: cls, modality: video}", "Own": "{meta_task: a, modality: video}"}
    write_results(tmp_path / "m", {name: [1, 0, 1, 1] for name in suite})
    settings = config(tmp_path, suite, ["m"])
    built = report.build_report(settings)
    assert built["other_sizes"] == ["K700 has 4 queries, the benchmark 1000"]
    assert "rows: K700 has 4 queries, the benchmark 1000 (1 task; the" in markdown_report(built)
    write_results(tmp_path / "full", {"K700": [1] * 1000, "Own": [1]})
    settings.models = {"m": str(tmp_path / "full")}
    built = report.build_report(settings)
    assert built["other_sizes"] == [] and "benchmark's data" not in markdown_report(built)


def test_the_suite_of_mmeb() -> None:
    suite = load_suite(str(ROOT / "configs/suites/mmeb.yaml"))
    ood = {name for name, task in suite.items() if task.distribution == "ood"}
    assert ood == set(
        "Place365 ImageNet-A ImageNet-R ObjectNet Country211 ScienceQA VizWiz GQA TextVQA FashionIQ"
        " Wiki-SS-NQ OVEN EDIS RefCOCO RefCOCO-Matching Visual7W-Pointing".split()
    )
