"""What an evaluation writes is what VLM2Vec's reporter and MMEB's leaderboard take.

./launch.sh test tests/eval/report/test_leaderboard.py
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.report import leaderboard
from eval.report.leaderboard import KEYS, METADATA, QUERIES, RENAMED, TASKS
from eval.result_files import Ranked, write_side_files
from eval.scoring import score_task
from eval.tasks.base import EvalTask
from eval.tasks.suites import load_suite
from tests.support.paths import SUITES
from tests.support.vlm2vec_reporter import DATASETS, MAIN_METRIC, report
from unime.errors import DataError
from unime.inputs.items import Item

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
# all_scores/v2.2-baselines-visdoc-page-fixed
PUBLISHED = """{
    "hit@1": 0.808,
    "hit@5": 0.956,
    "hit@10": 0.981,
    "ndcg_linear@1": 0.808,
    "ndcg_linear@5": 0.8918587795114569,
    "ndcg_linear@10": 0.899731308712349,
    "ndcg_exponential@1": 0.808,
    "ndcg_exponential@5": 0.8918587795114569,
    "ndcg_exponential@10": 0.899731308712349,
    "precision@1": 0.808,
    "precision@5": 0.19120000000000004,
    "precision@10": 0.09810000000000002,
    "recall@1": 0.808,
    "recall@5": 0.956,
    "recall@10": 0.981,
    "f1@1": 0.808,
    "f1@5": 0.3186666666666667,
    "f1@10": 0.17836363636363636,
    "map@1": 0.808,
    "map@5": 0.8700833333333333,
    "map@10": 0.8732119047619049,
    "mrr@1": 0.808,
    "mrr@5": 0.8700833333333333,
    "mrr@10": 0.8732119047619049,
    "num_pred": 1000,
    "num_data": 1000
}"""


write_leaderboard = partial(leaderboard.write_leaderboard, any_size=True)  # 4 queries a task


def write_task(base: Path, modality: str, name: str, seed: int) -> None:
    """A task's files, by the code that writes them in an evaluation; its embeddings are random."""
    draw = torch.Generator().manual_seed(seed)
    queries, targets = torch.randn(4, 8, generator=draw), torch.randn(6, 8, generator=draw)
    relevance = [{n: 2.0, n + 1: 1.0} if modality == "visdoc" else {n: 1.0} for n in range(4)]
    asked, searched = ([Item(f"{kind} {n}") for n in range(6)] for kind in ("query", "target"))
    names = [item.text for item in searched]
    task = EvalTask(name, 4, asked[:4], searched, names, relevance)
    ranking, metrics = score_task(task, queries, targets, torch.arange(6))
    means = {metric: values.mean().item() for metric, values in metrics.items()}
    ranked = Ranked(task, queries, targets, ranking.targets, ranking.scores, torch.ones(4))
    write_side_files(base / modality, ranked, means)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of all 78 tasks."""
    base = tmp_path_factory.mktemp("written")
    places = [(modality, name) for modality, names in DATASETS.items() for name in names]
    for seed, (modality, name) in enumerate(places):
        write_task(base, modality, name, seed)
    return base


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(written, tmp_path / "output"))


def scores_of(base: Path, modality: str) -> list[float]:
    paths = [base / modality / f"{name}_score.json" for name in DATASETS[modality]]
    return [json.loads(path.read_text())[MAIN_METRIC[modality]] for path in paths]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# The reporter reads what we write -----------------------------------------------------------------


def test_the_names_are_the_reporters() -> None:
    assert {modality: list(names) for modality, names in TASKS.items()} == DATASETS
    assert sum(map(len, TASKS.values())) == 78


@pytest.mark.parametrize(
    ("modality", "file"),
    [("image", "mmeb.yaml"), ("video", "mmeb_v2_video.yaml"), ("visdoc", "mmeb_v2_visdoc.yaml")],
)
def test_the_suites_have_the_reporters_names(modality: str, file: str) -> None:
    suite = load_suite(str(SUITES / file))
    assert set(suite) == set(DATASETS[modality])
    for task in suite.values():
        assert (task.modality, task.metric) == (modality, MAIN_METRIC[modality])


def test_a_score_file_is_what_vlm2vec_publishes(tmp_path: Path) -> None:
    write_task(tmp_path, "image", "ImageNet-1K", 0)
    path = tmp_path / "image/ImageNet-1K_score.json"
    assert list(read(path)) == list(json.loads(PUBLISHED)) == list(KEYS)
    form = [line.split(":")[0] for line in path.read_text().splitlines()]
    assert form == [line.split(":")[0] for line in PUBLISHED.splitlines()]  # indented alike


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
    kept = [
        value
        for name, value in zip(DATASETS["visdoc"], scores_of(folder, "visdoc"), strict=True)
        if name not in RENAMED
    ]
    assert reported.averages["visdoc"] == pytest.approx(sum(kept) / 22)


@pytest.mark.parametrize("modalities", [("image", "video", "visdoc"), ("video",), ("image",)])
def test_our_leaderboard_file_is_the_reporters(folder: Path, modalities: tuple[str, ...]) -> None:
    for modality in set(DATASETS) - set(modalities):
        for path in (folder / modality).iterdir():
            path.unlink()
        (folder / modality).rmdir()
    theirs = report(folder, DESCRIBED).file
    date = {"report_generated_date": read(theirs)["metadata"]["report_generated_date"]}
    ours = folder / "ours.json"
    write_leaderboard(folder, ours, DESCRIBED | date, modalities)
    assert ours.read_bytes() == theirs.read_bytes()


# The leaderboard's file ---------------------------------------------------------------------------


def test_the_form_of_the_leaderboards_file(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new/UniME-tiny.json"
    write_leaderboard(folder, output, {"model_name": "UniME-tiny", "model_size": 0.256})
    content = read(output)
    assert list(content) == ["metadata", "metrics"]
    described = content["metadata"]
    assert list(described) == list(METADATA) == [
        "model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens",
        "model_release_date", "data_source", "url", "report_generated_date",
    ]  # fmt: skip
    assert (described["model_size"], described["url"]) == (0.256, None)
    assert described["data_source"] == "Self-Reported"
    assert datetime.fromisoformat(described["report_generated_date"]) <= datetime.now()
    metrics = content["metrics"]
    assert {modality: len(found) for modality, found in metrics.items()} == {
        "image": 36, "video": 18, "visdoc": 24,
    }  # fmt: skip
    assert {"ViDoSeek-page-fixed", "MMLongBench-page-fixed"} <= set(metrics["visdoc"])
    assert not {"ViDoSeek-page", "MMLongBench-page"} & set(metrics["visdoc"])
    assert {"ViDoSeek-doc", "MMLongBench-doc"} <= set(metrics["visdoc"])
    assert metrics["visdoc"]["ViDoSeek-page-fixed"] == read(
        folder / "visdoc/ViDoSeek-page_score.json"
    )


def test_published_scores_pass_unchanged(folder: Path, tmp_path: Path) -> None:
    (folder / "image/ImageNet-1K_score.json").write_text(PUBLISHED)
    output = tmp_path / "out.json"
    write_leaderboard(folder, output, DESCRIBED)
    found = read(output)["metrics"]["image"]["ImageNet-1K"]
    assert list(found.items()) == list(json.loads(PUBLISHED).items())


def change(path: str, key: str, value: object) -> Callable[[Path], object]:
    """Sets a key of a score file, or removes it (None)."""

    def damage(base: Path) -> None:
        scores = {k: v for k, v in (read(base / path) | {key: value}).items() if v is not None}
        (base / path).write_text(json.dumps(scores))

    return damage


def cut(base: Path) -> None:
    (base / "MSVD.json").write_text(json.dumps({"config": {"data": {"limit": 10}}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda base: [(base / "video/MSVD_score.json").unlink(),
                       (base / "visdoc/ViDoSeek-doc_score.json").unlink()],
         "leaderboard: 2 of 78 tasks have no scores in ROOT: video/MSVD, visdoc/ViDoSeek-doc;"
         " evaluate them first"),
        (change("image/GQA_score.json", "mrr@5", None),
         "ROOT/image/GQA_score.json: not the scores of a task: missing or unknown: mrr@5"),
        (change("image/GQA_score.json", "acc", 0.5),
         "ROOT/image/GQA_score.json: not the scores of a task: missing or unknown: acc"),
        (change("image/GQA_score.json", "hit@1", 50.5),
         "ROOT/image/GQA_score.json: hit@1 is 50.5, which it cannot be"),
        (change("image/GQA_score.json", "hit@1", "0.5"),
         "ROOT/image/GQA_score.json: hit@1 is '0.5', expected a number"),
        (change("image/GQA_score.json", "hit@1", float("nan")),
         "ROOT/image/GQA_score.json: hit@1 is nan, expected a number"),
        (change("image/GQA_score.json", "num_data", 0),
         "ROOT/image/GQA_score.json: num_data is 0, which it cannot be"),
        (change("image/GQA_score.json", "num_pred", 4.0),
         "ROOT/image/GQA_score.json: num_pred is 4.0, expected a number"),
        (lambda base: (base / "image/GQA_score.json").write_text("{"),
         "ROOT/image/GQA_score.json: cannot read it: Expecting property name"),
        (lambda base: (base / "image/GQA_score.json").write_text("[]"),
         "ROOT/image/GQA_score.json: got list, expected an object"),
        (lambda base: (base / "MSVD.json").write_text('{"not_supported": "it embeds text"}'),
         "ROOT/MSVD.json: not supported (it embeds text); the scores beside it are another"),
        (lambda base: (base / "MSVD.json").write_text('{"metrics": {"hit@1": 0.123}}'),
         "ROOT/MSVD.json: of other scores; the scores beside it are another evaluation's"),
        (lambda base: (base / "MSVD.json").write_text('{"tied_queries": 3, "num_queries": 100}'),
         "ROOT/MSVD.json: different candidates have exactly equal scores for 3 of 100 queries"),
        (cut, "ROOT/MSVD.json: evaluated on its first 10 queries (data.limit), the leaderboard"),
    ],
)  # fmt: skip
def test_what_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(DataError) as error:
        write_leaderboard(folder, tmp_path / "out.json", DESCRIBED)
    assert str(error.value).startswith(message.replace("ROOT", str(folder)))
    assert [path.name for path in tmp_path.iterdir()] == ["output"]  # nothing half-written


def test_a_result_of_all_queries_is_accepted(folder: Path, tmp_path: Path) -> None:
    few = {"tied_queries": 1, "num_queries": 100}
    (folder / "MSVD.json").write_text(json.dumps({"config": {"data": {"limit": None}}} | few))
    write_leaderboard(folder, tmp_path / "out.json", DESCRIBED)


def test_a_modality_may_be_absent_only_if_asked_for(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "video").iterdir():
        path.unlink()
    output = tmp_path / "out.json"
    with pytest.raises(DataError, match=r"18 of 78 tasks .*video/K700, video/SmthSmthV2, .*"):
        write_leaderboard(folder, output, DESCRIBED)
    write_leaderboard(folder, output, DESCRIBED, ["image", "visdoc"])
    assert set(read(output)["metrics"]["video"].values()) == {"DIR_N/A"}
    (folder / "image/GQA_score.json").unlink()
    with pytest.raises(DataError, match=r"1 of 60 tasks have no scores in .*: image/GQA;"):
        write_leaderboard(folder, output, DESCRIBED, ["image", "visdoc"])
    for wrong in (["audio"], []):
        with pytest.raises(DataError, match=r"expected some of image, video, visdoc"):
            write_leaderboard(folder, output, DESCRIBED, wrong)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "leaderboard: metadata model_name: got None, expected a name"),
        ({"model_name": ""}, "leaderboard: metadata model_name: got '', expected a name"),
        ({"model_name": "A", "size": 2}, "leaderboard: metadata size: 2, expected one of"),
        ({"model_name": "A", "url": ["B"]}, "leaderboard: metadata url: ['B'], expected one of"),
    ],
)  # fmt: skip
def test_bad_metadata(folder: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        write_leaderboard(folder, folder / "out.json", metadata)
    assert str(error.value).startswith(message)


def test_data_that_are_not_the_benchmarks_are_refused(folder: Path, tmp_path: Path) -> None:
    """By the number of queries, which must be the benchmark's for every task."""
    output = tmp_path / "out.json"
    for modality, names in TASKS.items():
        for name in names:
            path = folder / modality / f"{name}_score.json"
            path.write_text(json.dumps(read(path) | {"num_data": QUERIES[name]}))
    leaderboard.write_leaderboard(folder, output, DESCRIBED)
    path = folder / "video/K700_score.json"
    path.write_text(json.dumps(read(path) | {"num_data": 4}))
    output.unlink()
    with pytest.raises(DataError, match="1 of 78 tasks.*K700 has 4 queries, the benchmark 1000"):
        leaderboard.write_leaderboard(folder, output, DESCRIBED)
    assert not output.exists()


def test_the_numbers_of_queries_are_those_that_the_suite_says() -> None:
    """After the name of each video task: "MVBench:  # 4000 of 3 to 5"."""
    text = Path("configs/suites/mmeb_v2_video.yaml").read_text()
    said = {name: int(count) for name, count in re.findall(r"^(\S+):  # (\d+)", text, re.M)}
    assert said == {name: QUERIES[name] for name in TASKS["video"]}
    assert {QUERIES[name] for name in TASKS["image"]} == {1000}
    assert len(QUERIES) == 78 and QUERIES["VisRAG_ChartQA"] == 63
