"""The report: what it shows, and what it refuses to average.

./launch.sh test tests/eval/report/test_report.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval.remarks import warnings_of_report
from eval.report import build as report
from eval.report import leaderboard
from eval.report.__main__ import main as report_main
from eval.report.printing import markdown_report, print_report, published_table
from eval.report.table import markdown, table_sections
from eval.tasks.suites import load_suite
from tests.support.paths import ROOT
from tests.support.results import refused, result_json, write_result
from unime.config import ReportConfig, build_config
from unime.errors import ConfigError, DataError

SUITE = {
    "CatsVQA": "{meta_task: vqa, distribution: ind}",
    "DogsVQA": "{meta_task: vqa, distribution: ood}",
    "Find": "{meta_task: retrieval, distribution: ind}",
}
HITS = {"CatsVQA": [1, 1, 0, 0], "DogsVQA": [1, 0, 0, 0], "Find": [1, 1, 1, 1, 1, 1, 1, 0]}
FAMILY = {
    "Birds": "{meta_task: vqa}",
    "Clips": "{meta_task: qa, modality: video}",
    "Pages": "{meta_task: pages, modality: visdoc, metric: ndcg_linear@5}",
    "F_t2i": "{meta_task: short_retrieval, modality: retrieval}",
    "F_i2t": "{meta_task: short_retrieval, modality: retrieval}",
    "S_t2i": "{meta_task: long_retrieval, modality: retrieval}",
    "add_obj": "{meta_task: add, modality: compositional}",
    "swap_obj": "{meta_task: swap, modality: compositional}",
}
VALUES = {name: [1, 0, 1, 1] for name in FAMILY} | {"Pages": [0.25, 1.0, 0.5, 0.65]}
Values = dict[str, list[float]]


def write_suite(tmp_path: Path, suite: dict[str, str] = SUITE) -> str:
    path = tmp_path / "suite.yaml"
    path.write_text("".join(f"{task}: {entry}\n" for task, entry in suite.items()))
    return str(path)


def write_results(folder: Path, values: Values, **changes: Any) -> Path:
    for task, own in values.items():
        metric = "ndcg_linear@5" if task == "Pages" else "hit@1"
        chance = 0.25 if task == "Find" else 0.5
        write_result(folder, result_json(task, own, metric, **{"chance": chance, **changes}))
    return folder


def change(file: str, **values: Any) -> Callable[[Path], object]:
    def write(tmp_path: Path) -> None:
        path = tmp_path / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return write


def not_supported(tmp_path: Path, file: str, reason: str) -> None:
    path = tmp_path / f"{file}.json"
    write_result(path.parent, refused(json.loads(path.read_text()), reason))


def config(tmp_path: Path, suite: dict[str, str] = SUITE, **settings: Any) -> ReportConfig:
    models = {"base": str(tmp_path / "base"), "tuned": str(tmp_path / "tuned")}
    own = {"models": models, "output": str(tmp_path / "out/report.json")}
    return ReportConfig(**{**own, "suite": write_suite(tmp_path, suite), **settings})


def one_model(tmp_path: Path, suite: dict[str, str] = SUITE, **settings: Any) -> ReportConfig:
    return config(tmp_path, suite, models={"m": str(tmp_path / "m")}, **settings)


def play(settings: ReportConfig, *words: str) -> None:
    """The program, as from the command line."""
    path = Path(settings.output).parent.with_name("config.yaml")
    path.write_text(
        f"models: {json.dumps(settings.models)}\nsuite: {settings.suite}\n"
        f"output: {settings.output}\nbaseline: {json.dumps(settings.baseline)}\n"
    )
    report_main(["--config", str(path), *words])


@pytest.fixture
def two_models(tmp_path: Path) -> ReportConfig:
    write_results(tmp_path / "base", {task: [0] * len(hits) for task, hits in HITS.items()})
    write_results(tmp_path / "tuned", HITS)
    return config(tmp_path)


@pytest.fixture
def family(tmp_path: Path) -> ReportConfig:
    """A model that can do everything, and one of texts and images only."""
    write_results(tmp_path / "base", VALUES)
    write_results(tmp_path / "tuned", VALUES)
    not_supported(tmp_path, "tuned/Clips", "this model takes no videos")
    return config(tmp_path, FAMILY)


# Numbers -----------------------------------------------------------------------------------------


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
    hits = {
        "CatsVQA": random.binomial(1, 0.3, 300).tolist(),
        "DogsVQA": random.binomial(1, 0.6, 200).tolist(),
        "Find": random.binomial(1, 0.5, 100).tolist(),
    }
    write_results(tmp_path / "m", hits)
    settings = one_model(tmp_path, bootstrap_samples=4000)
    found = report.build_report(settings)["models"]["m"]
    drawn = np.array(
        [
            [random.choice(values, len(values)).mean() for values in hits.values()]
            for _ in range(4000)
        ]
    )
    overall = found["averages"]["micro-3"]
    expected = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    assert overall["ci95"] == pytest.approx(expected, abs=0.005)
    macro = np.stack([drawn[:, :2].mean(axis=1), drawn[:, 2]]).mean(axis=0)
    expected = np.quantile(macro, [0.025, 0.975])
    assert found["averages"]["macro-2"]["ci95"] == pytest.approx(expected, abs=0.006)
    expected = np.quantile(drawn[:, 2], [0.025, 0.975])
    assert found["tasks"]["Find"]["ci95"] == pytest.approx(expected, abs=0.015)
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
    settings = config(tmp_path, baseline="base")
    settings.models["again"] = str(tmp_path / "again")
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


def test_a_suite_without_ood_tasks(tmp_path: Path) -> None:
    write_results(tmp_path / "m", {"Find": HITS["Find"]})
    built = report.build_report(one_model(tmp_path, {"Find": SUITE["Find"]}))
    assert list(built["averages"]) == ["image-ind", "micro-1"]
    assert [row[0] for row in table_sections(built)[1][1]] == [
        "in distribution (1 task)", "micro-1 (mean of tasks)",
    ]  # fmt: skip


def test_every_commit_is_listed(two_models: ReportConfig, tmp_path: Path) -> None:
    change("tuned/Find", commit="c2")(tmp_path)
    models = report.build_report(two_models)["models"]
    assert {name: model["commits"] for name, model in models.items()} == {
        "base": ["c1"], "tuned": ["c1", "c2"],
    }  # fmt: skip


# What a model cannot do --------------------------------------------------------------------------


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


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    inputs = {"prompt": "unime", "num_frames": 8, "max_tiles": 4}
    other = inputs | {"num_frames": 64, "max_tiles": 16}
    for suite, expected in (("image", ["max_tiles"]), ("video", ["num_frames", "max_tiles"])):
        folder = tmp_path / suite
        write_results(folder / "base", HITS, inputs=inputs)
        write_results(folder / "tuned", HITS, inputs=other)
        write_results(folder / "clip", HITS, inputs={})  # has no such settings
        entry = f"{{meta_task: a, modality: {suite}}}"
        settings = config(folder, dict.fromkeys(SUITE, entry))
        settings.models["clip"] = str(folder / "clip")
        built = report.build_report(settings)
        pairs = {key: {"base": inputs[key], "tuned": other[key]} for key in expected}
        assert built["differing_settings"] == pairs
        line = "not strictly comparable: the models differ in max_tiles (base 4, tuned 16)"
        assert line in markdown_report(built)
        del settings.models["tuned"]
        assert "comparable" not in markdown_report(report.build_report(settings))


def test_a_zero_is_a_value_and_a_null_is_none(tmp_path: Path) -> None:
    """A baseline has neither preset nor tiles, which its inputs say by nulls: nothing differs."""
    inputs = {"prompt": "unime", "max_tiles": 0}
    write_results(tmp_path / "base", HITS, inputs=inputs)
    write_results(tmp_path / "tuned", HITS, inputs=inputs | {"max_tiles": 4})
    write_results(tmp_path / "clip", HITS, inputs={"prompt": None, "max_tiles": None})
    settings = config(tmp_path)
    settings.models["clip"] = str(tmp_path / "clip")
    text = markdown_report(report.build_report(settings))
    assert "the models differ in max_tiles (base 0, tuned 4)" in text
    assert "differ in prompt" not in text
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
    assert "warning" not in markdown_report(report.build_report(only(settings, "tuned")))


def only(settings: ReportConfig, name: str) -> ReportConfig:
    return replace(settings, models={name: settings.models[name]})


def test_results_of_the_older_rule_of_ties_are_refused(two_models: ReportConfig) -> None:
    """They gave the right candidate every tie, and do not say how many there were."""
    path = Path(two_models.models["base"]) / "Find.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k != "tied_queries"}
    path.write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"Find\.json.*tied_queries is None; evaluate again"):
        report.build_report(two_models)


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


# The program -------------------------------------------------------------------------------------


def test_the_program_prints_and_writes(
    two_models: ReportConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    play(two_models)
    printed = capsys.readouterr().out
    for words in ("CatsVQA", "mean of retrieval", "micro-3", "54.2", "base", "tuned"):
        assert words in printed
    written = json.loads(Path(two_models.output).read_text())
    assert written == report.build_report(two_models)
    text = Path(two_models.output).with_suffix(".md").read_text()
    warnings, _, table_text = text.partition("\n\n")
    table = table_text.splitlines()
    assert warnings.startswith("- **warning**: base: ")
    assert table[:2] == ["|  | chance | base | tuned |", "| --- | ---: | ---: | ---: |"]
    assert "| CatsVQA | 50.0 | 0.0 [0.0, 0.0] | 50.0 [0.0, 100.0] |" in table
    assert any(line.startswith("| micro-3 (mean of tasks) | 41.7 |") for line in table)
    assert {line.count("|") for line in table} == {5}
    assert sorted(p.name for p in Path(two_models.output).parent.iterdir()) == [
        "report.json",
        "report.md",
    ]


def test_the_program_compares(two_models: ReportConfig, capsys: pytest.CaptureFixture[str]) -> None:
    play(two_models, "baseline=base")
    printed = capsys.readouterr().out
    assert "Differences to base" in printed and "+54.2" in printed
    text = Path(two_models.output).with_suffix(".md").read_text()
    assert "| DogsVQA | +25.0 [+0.0, +75.0] p 0.6" in text


def test_a_narrow_terminal_shows_all_of_every_number(
    two_models: ReportConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    built = report.build_report(two_models)
    print_report(built, Console(width=60))
    narrow = capsys.readouterr().out
    assert "…" not in narrow and "[" not in narrow.split("micro-3: ")[0]
    ends = built["models"]["tuned"]["averages"]["micro-3"]["ci95"]
    low, high = (f"{100 * end:.1f}" for end in ends)
    assert f"tuned [{low}, {high}]" in narrow
    print_report(built, Console(width=160))
    assert f"[{low}, {high}]" in capsys.readouterr().out


def test_78_tasks_of_five_models_fit_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads((ROOT / "tests/support/vlm2vec_scores.json").read_text())
    suite = {
        task: f"{{meta_task: {modality}, modality: {modality}}}"
        for modality in ("image", "video", "visdoc")
        for task in stored[modality]
    }
    values: Values = {task: [1, 0, 1, 1, 0, 0, 1, 1, 1, 1] for task in suite}
    names = ["base", "stage1", "stage1_stage2", "stage2", "infonce"]
    for name in names:
        write_results(tmp_path / name, values)
    models = {name: str(tmp_path / name) for name in names}
    built = report.build_report(config(tmp_path, suite, models=models))
    print_report(built, Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert sum(line.count("70.0") == 5 for line in lines) == 78 + 4
    for words in ("image: hit@1", "visdoc: hit@1", "all-78 (mean of tasks)"):
        assert any(words in line for line in lines), words


def test_rows_of_others_stand_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(ROOT / "configs/suites/mmeb.yaml")
    write_results(tmp_path / "m", {task: [1, 0, 1, 1] for task in load_suite(suite)})
    settings = one_model(tmp_path)
    settings.suite = suite
    play(settings)
    printed = capsys.readouterr().out
    assert "MMEB (V1), 36 image tasks" in printed and "UniME Phi-3.5-V" in printed
    assert max(map(len, printed.split("written: ")[0].splitlines())) <= 80
    lines = Path(settings.output).with_suffix(".md").read_text().splitlines()
    assert lines[2].startswith("hit@1 in %")
    assert lines[4] == "|  | chance | m | UniME LLaVA-1.6 |"  # its scores of each task
    assert any(
        line.startswith("| EDIS | 50.0 | 75.0 [") and line.endswith("] | 86.2 |") for line in lines
    )
    assert any(line.startswith("| micro-36 (") and line.endswith("] | 63.6 |") for line in lines)
    ours = next(place for place, line in enumerate(lines) if line.startswith("| m | 75.0 |"))
    head = "|  | Cls | VQA | Ret | Gnd | IND | OOD | micro-36 | macro-4 | source |"
    assert lines[ours - 2] == head and lines[ours].endswith("| 75.0 | 75.0 | this report |")
    row = "| UniME Phi-3.5-V | 54.8 | 55.9 | 64.5 | 81.8 | 68.2 | 52.7 | 61.3 | 64.2 | UniME, "
    row += "arXiv 2504.17432v4, Table 1; 64.2 printed as overall (macro-4) |"
    assert row in lines
    assert "| SigLIP |  |  |  |  |  |  | 34.8 |  | TIGER-AI-Lab/VLM2Vec, assets" in "\n".join(lines)
    best = [line.split(" | ")[7] for line in lines[ours + 1 :] if line.startswith("| ")]
    assert [float(number) for number in best] == sorted(map(float, best), reverse=True)
    play(settings, "published_rows=[CLIP ViT-L]")
    printed = capsys.readouterr().out
    assert "CLIP ViT-L" in printed and "UniME" not in printed.split("written")[0]
    play(settings, "published=false")
    assert "CLIP" not in capsys.readouterr().out
    assert json.loads(Path(settings.output).read_text())["published"] == {}


def test_the_page_and_the_leaderboards_file(
    two_models: ReportConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are called with what they need, where they are asked for."""
    called: list[Any] = []
    monkeypatch.setattr(
        "eval.page.build.write_page", lambda *words, **more: called.append((words, more))
    )
    monkeypatch.setattr(
        "eval.report.__main__.write_leaderboard", lambda *words: called.append(words)
    )
    play(two_models)
    assert not called
    board = "leaderboard={tuned: {model_name: Mine-2B, model_size: 2B}}"
    Path(two_models.output).unlink()
    with (
        monkeypatch.context() as patch,
        pytest.raises(ConfigError, match="leaderboard: .* is not MMEB's: it lacks ImageNet-1K, "),
    ):
        patch.setattr("eval.report.__main__.write_leaderboard", leaderboard.write_leaderboard)
        play(two_models, board)
    assert not called and not Path(two_models.output).exists(), "half a report"
    play(two_models, f"html={tmp_path}/out/page.html", board, "baseline=base")
    (reported, model, output, metadata), ((found, models, path), more) = called
    assert (model, output) == ("tuned", tmp_path / "out/Mine-2B.json")
    assert metadata == {"model_name": "Mine-2B", "model_size": "2B"}
    assert reported == found == json.loads(Path(two_models.output).read_text())
    assert models == {"base": tmp_path / "base", "tuned": tmp_path / "tuned"}
    assert path == tmp_path / "out/page.html"
    assert more == {"baseline": "base", "seed": 0}


def test_published_rows_are_sorted_by_the_mean_over_tasks() -> None:
    """UniME LLaVA-1.6's macro average is above VLM2Vec-V2.0's, its micro average below."""
    rows = {
        "UniME": {"micro-36": 63.6, "macro-4": 66.6},
        "V2.0": {"micro-36": 64.9, "macro-4": 66.5},
    }
    columns = {"micro-36": "micro-36", "macro-4": "macro-4"}
    published = [
        {"name": n, "scores": s, "printed": {}, "source": "", "note": ""} for n, s in rows.items()
    ]
    shown = published_table(
        {
            "models": {},
            "overall": "all-78",
            "published": {"x": {"columns": columns, "rows": published}},
        },
        "x",
    )
    assert [row[0] for row in shown[1:]] == ["V2.0", "UniME"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "baseline=other",
            "baseline: got 'other', expected one of models: base, stage1, st",
        ),
        (
            "leaderboard={other: {model_name: M}}",
            "leaderboard: got 'other', expected one of mod",
        ),
        ("leaderboard={base: {url: u}}", "leaderboard.base: got '', expected a file's name in mod"),
        ("leaderboard={base: {model_name: a/b}}", "leaderboard.base: got 'a/b', expected a file's"),
        ("output=runs/report.md", "output: got 'runs/report.md', expected a name that ends in .j"),
        ("output=runs/report", "output: got 'runs/report', expected a name that ends in .json"),
        (
            "output=r/a.json & html=r/a.md",
            "html: got 'r/a.md', expected another file than that of output, as Markdown",
        ),
        (
            "output=r/a.json & html=r/../r/a.json",
            "html: got 'r/../r/a.json', expected another file than that of output",
        ),
        (
            "output=r/a.json & leaderboard={base: {model_name: a}}",
            "leaderboard.base: got 'r/a.json', expected another file than that of output",
        ),
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


def test_data_that_are_not_the_benchmarks_are_noted(tmp_path: Path) -> None:
    suite = {"K700": "{meta_task: cls, modality: video}", "Own": "{meta_task: a, modality: video}"}
    write_results(tmp_path / "m", {name: [1, 0, 1, 1] for name in suite})
    settings = one_model(tmp_path, suite)
    built = report.build_report(settings)
    assert built["other_sizes"] == ["K700 has 4 queries, the benchmark 1000"]
    assert "rows: K700 has 4 queries, the benchmark 1000 (1 task; the" in markdown_report(built)
    write_results(tmp_path / "full", {"K700": [1] * 1000, "Own": [1]})
    settings.models = {"m": str(tmp_path / "full")}
    built = report.build_report(settings)
    assert built["other_sizes"] == [] and "benchmark's data" not in markdown_report(built)


# Limits ------------------------------------------------------------------------------------------


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
    settings = one_model(tmp_path)
    assert report.build_report(settings)["limit"] == limit
    play(settings)
    words = f"only the first {limit} queries of each task"
    assert words in " ".join(capsys.readouterr().out.split())
    assert words in Path(settings.output).with_suffix(".md").read_text()
    limited_results(tmp_path / "all", 8)  # cuts nothing
    settings.models = {"m": str(tmp_path / "all")}
    assert report.build_report(settings)["limit"] is None


def test_different_limits_are_not_averaged(tmp_path: Path) -> None:
    settings = one_model(tmp_path)
    limited_results(tmp_path / "m", 3, Find=8)
    with pytest.raises(DataError, match="CatsVQA has the first 3 of 4 queries, task Find 8 of 8;"):
        report.build_report(settings)
    limited_results(tmp_path / "n", 3, Find=5)
    settings.models = {"n": str(tmp_path / "n")}
    with pytest.raises(DataError, match="Find has the first 5 of 8 queries, task CatsVQA 3 of 4;"):
        report.build_report(settings)


# Refusals ----------------------------------------------------------------------------------------

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


def test_a_missing_result_is_no_task_that_a_model_cannot_do(
    family: ReportConfig, tmp_path: Path
) -> None:
    (tmp_path / "tuned/Clips.json").unlink()
    with pytest.raises(DataError, match="model 'tuned': 1 of 8 tasks have no result in .*: Clips;"):
        report.build_report(family)


def test_one_table_as_markdown() -> None:
    assert markdown(["", "a"], [[["x", "1"]], [["y", "2"]]]).splitlines() == [
        "|  | a |", "| --- | ---: |", "| x | 1 |", "| y | 2 |",
    ]  # fmt: skip


# Suites ------------------------------------------------------------------------------------------


def test_the_suite_of_mmeb() -> None:
    path = ROOT / "configs/suites/mmeb.yaml"
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
        ("A/B: {meta_task: a}", "A/B.the task's name: got 'A/B', expected a name without a slash"),
        (
            "A: {meta_task: a, revision: 4e53218}",
            "A.revision: got 4e53218, expected a text, or null",
        ),
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
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_suite(str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
