"""What an evaluation writes is what VLM2Vec's reporter and MMEB's leaderboard take.

./launch.sh test tests/eval/report/test_leaderboard.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.report.build import build_report
from eval.report.leaderboard import METADATA, benchmark, other_sizes, write_leaderboard
from eval.tasks.base import EvalTask
from eval.tasks.suites import load_suite
from tests.support.pages.results import write_task
from tests.support.paths import SUITES
from tests.support.published.vlm2vec_reporter import DATASETS, FIXED, MAIN_METRIC, report
from unime.config import ReportConfig
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.retrieval.measures import METRICS
from unime.runtime.files import read_json

DESCRIBED: dict[str, Any] = {
    "model_name": "UniME-tiny",
    "model_backbone": "SmolVLM-256M",
    "model_size": 0.256,
    "embedding_dimension": 576,
    "max_length_tokens": 1024,
    "model_release_date": "2026-11-22",
    "data_source": "Self-Reported",
    "url": "https://example.org/unime-tiny",
}
# metrics.image.ImageNet-1K of VLM2Vec-V2.0-Qwen2VL-2B.json in VLM2Vec's experiments/public/
# all_scores/v2.2-baselines-visdoc-page-fixed, which has a line each, indented by four
AT = {
    "hit": (0.808, 0.956, 0.981),
    "ndcg_linear": (0.808, 0.8918587795114569, 0.899731308712349),
    "ndcg_exponential": (0.808, 0.8918587795114569, 0.899731308712349),
    "precision": (0.808, 0.19120000000000004, 0.09810000000000002),
    "recall": (0.808, 0.956, 0.981),
    "f1": (0.808, 0.3186666666666667, 0.17836363636363636),
    "map": (0.808, 0.8700833333333333, 0.8732119047619049),
    "mrr": (0.808, 0.8700833333333333, 0.8732119047619049),
}
PUBLISHED = {
    f"{name}@{depth}": value
    for name, values in AT.items()
    for depth, value in zip((1, 5, 10), values, strict=True)
} | {"num_pred": 1000, "num_data": 1000}

Built = dict[str, Any]  # a report


def write_random(base: Path, modality: str, name: str, seed: int) -> None:
    """A task's files, of random embeddings."""
    draw = torch.Generator().manual_seed(seed)
    queries, targets = torch.randn(4, 8, generator=draw), torch.randn(6, 8, generator=draw)
    relevance = [{n: 2.0, n + 1: 1.0} if modality == "visdoc" else {n: 1.0} for n in range(4)]
    asked, searched = ([Item(f"{kind} {n}") for n in range(6)] for kind in ("query", "target"))
    task = EvalTask(name, 4, asked[:4], searched, [item.text for item in searched], relevance)
    write_task(base, task, queries, targets, MAIN_METRIC[modality], modality=modality)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of all 78 tasks."""
    base = tmp_path_factory.mktemp("written")
    places = [(modality, name) for modality, names in DATASETS.items() for name in names]
    for seed, (modality, name) in enumerate(places):
        write_random(base, modality, name, seed)
    return base


@pytest.fixture(scope="module")
def reported(written: Path) -> Built:
    """The report on it, as if it had the benchmark's number of queries."""
    models, suite = {"m": str(written)}, str(SUITES / "mmeb_v2.yaml")
    built = build_report(ReportConfig(models, suite, output="r.json", bootstrap_samples=1))
    assert len(built["other_sizes"]) == 78
    return json.loads(json.dumps(built)) | {"other_sizes": []}


@pytest.fixture
def built(reported: Built) -> Built:
    """A copy of it."""
    return deepcopy(reported)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(written, tmp_path / "output"))


def of_modalities(built: Built, modalities: Iterable[str]) -> Built:
    """The report on a part of the suite."""
    tasks = {name: task for name, task in built["tasks"].items() if task["modality"] in modalities}
    found = {name: built["models"]["m"]["tasks"][name] for name in tasks}
    return built | {"tasks": tasks, "models": {"m": {"tasks": found}}}


def scores_of(base: Path, modality: str) -> list[float]:
    paths = [base / modality / f"{name}_score.json" for name in DATASETS[modality]]
    return [read_json(path)[MAIN_METRIC[modality]] for path in paths]


# The reporter reads what we write -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "file"),
    [("image", "mmeb.yaml"), ("video", "mmeb_v2_video.yaml"), ("visdoc", "mmeb_v2_visdoc.yaml")],
)
def test_the_suites_have_the_reporters_names(modality: str, file: str) -> None:
    suite = load_suite(str(SUITES / file))
    names = [name for name, task in benchmark().items() if task.modality == modality]
    assert list(suite) == names == DATASETS[modality] and len(benchmark()) == 78
    for task in suite.values():
        assert (task.modality, task.metric) == (modality, MAIN_METRIC[modality])


def test_a_score_file_is_what_vlm2vec_publishes(tmp_path: Path) -> None:
    write_random(tmp_path, "image", "ImageNet-1K", 0)
    path = tmp_path / "image/ImageNet-1K_score.json"
    form = [line.split(":")[0] for line in path.read_text().splitlines()]
    assert form == ["{", *(f'    "{key}"' for key in PUBLISHED), "}"]


def test_the_reporter_takes_our_folder_unchanged(folder: Path) -> None:
    reported = report(folder, DESCRIBED)
    for modality in ("image", "video"):
        own = scores_of(folder, modality)
        assert reported.averages[modality] == pytest.approx(sum(own) / len(own))
        assert 0 < sum(own) < len(own)
    assert reported.counted == {"image": 36, "video": 18, "visdoc": 22}
    # Its own mistake: both are in its file under other keys, and missing in its average.
    assert reported.missing == {
        "image": [], "video": [], "visdoc": ["ViDoSeek-page", "MMLongBench-page"]
    }  # fmt: skip
    own = dict(zip(DATASETS["visdoc"], scores_of(folder, "visdoc"), strict=True))
    kept = [score for name, score in own.items() if name not in FIXED]
    assert reported.averages["visdoc"] == pytest.approx(sum(kept) / 22)


@pytest.mark.parametrize("modalities", [("image", "video", "visdoc"), ("video",), ("image",)])
def test_our_leaderboard_file_is_the_reporters(
    folder: Path, built: Built, modalities: tuple[str, ...]
) -> None:
    for modality in set(DATASETS) - set(modalities):
        for path in (folder / modality).iterdir():
            path.unlink()
        (folder / modality).rmdir()
    theirs = report(folder, DESCRIBED).file
    date = {"report_generated_date": read_json(theirs)["metadata"]["report_generated_date"]}
    ours = folder / "ours.json"
    write_leaderboard(of_modalities(built, modalities), "m", ours, DESCRIBED | date)
    assert ours.read_bytes() == theirs.read_bytes()


# The leaderboard's file ---------------------------------------------------------------------------


def test_what_the_metadata_do_not_say(built: Built, tmp_path: Path) -> None:
    """The rest of the form is the reporter's, byte for byte."""
    output = tmp_path / "new/UniME-tiny.json"
    write_leaderboard(built, "m", output, {"model_name": "UniME-tiny", "model_size": 0.256})
    described = read_json(output)["metadata"]
    assert list(described) == list(METADATA)
    assert (described["model_size"], described["url"]) == (0.256, None)
    assert described["data_source"] == "Self-Reported"
    assert datetime.fromisoformat(described["report_generated_date"]) <= datetime.now()


def test_published_scores_pass_unchanged(built: Built, tmp_path: Path) -> None:
    metrics = {key: PUBLISHED[key] for key in reversed(METRICS)}
    entry(built, "ImageNet-1K").update(metrics=metrics, num_queries=1000)
    output = tmp_path / "out.json"
    write_leaderboard(built, "m", output, DESCRIBED)
    found = read_json(output)["metrics"]["image"]["ImageNet-1K"]
    assert list(found.items()) == list(PUBLISHED.items())


def entry(built: Built, task: str) -> Any:
    return built["models"]["m"]["tasks"][task]


def pop(built: Built, *tasks: str) -> None:
    for task in tasks:
        del built["models"]["m"]["tasks"][task]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda built: pop(built, "MSVD", "ViDoSeek-doc"),
         "leaderboard: SUITE is not MMEB's: it lacks MSVD, ViDoSeek-doc, …"),
        (lambda built: built.update(of_modalities(built, ("image",))) or pop(built, "GQA"),
         "leaderboard: SUITE is not MMEB's: it lacks GQA, …"),
        (lambda built: built.update(tasks={"Own": {"modality": "retrieval"}}),
         "leaderboard: SUITE is not MMEB's"),
        (lambda built: entry(built, "GQA")["metrics"].pop("mrr@5"),
         "leaderboard: m, GQA: missing or unknown: mrr@5"),
        (lambda built: entry(built, "GQA")["metrics"].update(acc=0.5),
         "leaderboard: m, GQA: missing or unknown: acc"),
        (lambda built: entry(built, "MSVD").update(score=None, not_supported="it embeds text"),
         "leaderboard: m, MSVD: not supported (it embeds text)"),
        (lambda built: entry(built, "MSVD").update(tied_queries=3, num_queries=100),
         "leaderboard: m, MSVD: different candidates have exactly equal scores for 3 of 100 quer"),
        (lambda built: built.update(limit=10),
         "leaderboard: m was evaluated on the first 10 queries (data.limit), the leaderboard"),
        (lambda built: built.update(other_sizes=["K700 has 4 queries, the benchmark 1000"]),
         "leaderboard: m has scores on data that are not the benchmark's (1 of 78 tasks): K700"),
    ],
)  # fmt: skip
def test_what_is_refused(
    built: Built, tmp_path: Path, damage: Callable[[Built], object], message: str
) -> None:
    damage(built)
    with pytest.raises((ConfigError, DataError)) as error:
        write_leaderboard(built, "m", tmp_path / "out.json", DESCRIBED)
    assert str(error.value).startswith(message.replace("SUITE", built["suite"]))
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_few_ties_are_accepted(built: Built, tmp_path: Path) -> None:
    entry(built, "MSVD").update(tied_queries=1, num_queries=100)
    write_leaderboard(built, "m", tmp_path / "out.json", DESCRIBED)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "leaderboard: metadata model_name: got None, expected a name"),
        ({"model_name": ""}, "leaderboard: metadata model_name: got '', expected a name"),
        ({"model_name": "A", "size": 2}, "leaderboard: metadata size: 2, expected one of"),
        ({"model_name": "A", "url": ["B"]}, "leaderboard: metadata url: ['B'], expected one of"),
    ],
)  # fmt: skip
def test_bad_metadata(built: Built, tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        write_leaderboard(built, "m", tmp_path / "out.json", metadata)
    assert str(error.value).startswith(message)


def test_the_benchmarks_numbers_of_queries() -> None:
    sizes = {name: task.num_queries for name, task in benchmark().items()}
    assert {sizes[name] for name in DATASETS["image"]} == {1000}
    assert (sizes["MVBench"], sizes["MomentSeeker"], sizes["VisRAG_ChartQA"]) == (4000, 1602, 63)
    counts = {name: size for name, size in sizes.items() if size is not None}
    assert len(counts) == 78 and other_sizes(counts | {"Own": 5}) == []
    found = other_sizes(counts | {"K700": 4})
    assert found == ["K700 has 4 queries, the benchmark 1000"]
