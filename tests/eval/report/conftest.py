"""A report on two models whose results a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.report.__main__ import main as report_main
from tests.support.results import refused, result_json, write_result
from unime.config import ReportConfig

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


def config(
    tmp_path: Path,
    suite: dict[str, str] = SUITE,
    names: Sequence[str] = ("base", "tuned"),
    **settings: Any,
) -> ReportConfig:
    models = {name: str(tmp_path / name) for name in names}
    own = {"models": models, "output": str(tmp_path / "out/report.json")}
    return ReportConfig(**{**own, "suite": write_suite(tmp_path, suite), **settings})


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
    clips = json.loads((tmp_path / "tuned/Clips.json").read_text())
    write_result(tmp_path / "tuned", refused(clips, "this model takes no videos"))
    return config(tmp_path, FAMILY)
