"""The page of the report: what is put into it, and what it leaves out. In a browser:
tests/eval/page/test_page_browser.py.

./launch.sh test tests/eval/page/test_page.py
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval.miniatures.mmeb import write_picture
from eval.page.build import render, write_page
from eval.page.files import read_task_files
from eval.page.gallery import LONGEST, Items, choose_queries, spread
from eval.page.maps import FEW, packed, project, similarity_matrix
from eval.page.pictures import SIZE, Pictures
from tests.support.pages.results import MODELS, NASTY, TASKS, Written, report_on, write_results
from tests.support.results import refused, write_result
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_results(tmp_path_factory.mktemp("results"), num_queries=8, size=24)


@pytest.fixture
def models(results: Written, tmp_path: Path) -> dict[str, Path]:
    """Results that a test may change; pictures stay where they are."""
    return {n: shutil.copytree(own, tmp_path / own.name) for n, own in results[1].items()}


def written(results: Written, path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """The page and the data in it."""
    print(write_page(*results, path, map_points=40, **options))
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return page, json.loads(data)


def test_one_file_that_loads_nothing(
    results: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out/new/report.html"  # the folders are made
    page, data = written(results, path)
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    links = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", page.split('id="data">')[0])
    assert {link for link in links if link[0] != "#"} == {"data:,"}
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert "{{" not in page and page.startswith("<!doctype html>") and '<html lang="en">' in page
    assert f"{len(data['gallery'])} examples, {len(data['pictures'])} pictures" in (
        capsys.readouterr().out
    )
    assert [model["name"] for model in data["models"]] == list(MODELS)
    assert [task["name"] for task in data["tasks"]] == list(TASKS)
    assert data["baseline"] == 0 and data["items"][0]["kind"]


def test_texts_are_data(results: Written, tmp_path: Path) -> None:
    page, data = written(results, tmp_path / "report.html")
    assert page.count("</script") == 2 and "<img" not in page and "<b>bold" not in page
    assert NASTY in [item.get("text") for item in data["items"]]
    assert render({"text": "\ud800"}).encode("utf-8")  # a lone surrogate has no UTF-8
    assert "innerHTML" not in page and "insertAdjacentHTML" not in page


def test_scores_stand_as_the_report_has_them(results: Written, tmp_path: Path) -> None:
    report, data = results[0], written(results, tmp_path / "r.html")[1]
    other = report | {"baseline": MODELS[2]}
    assert written((other, results[1]), tmp_path / "r.html")[1]["baseline"] == 2
    for place, name in enumerate(MODELS):
        found = report["models"][name]
        for task in data["tasks"]:
            entry = found["tasks"][task["name"]]
            assert task["scores"][place] == pytest.approx(
                [entry["score"], *entry["ci95"]], abs=1e-5
            )
        (own, benchmark) = data["tables"]
        scores = [cells[0] for cells in own["ours"][place]]
        keys = [column["key"] for column in own["columns"]]
        assert keys[:5] == ["all-5", "micro-4", "macro-3", "image-ind", "image-ood"]
        assert sorted(keys) == sorted(found["averages"])
        assert scores == pytest.approx([found["averages"][k]["score"] for k in keys], abs=1e-5)
    assert [row["name"] for row in benchmark["published"]] == ["A third", "Another"]  # best first
    assert benchmark["published"][1]["scores"] == [0.75, None, 0.701]
    pair = f"{MODELS[1]}|{MODELS[0]}"
    expected = report["paired"][pair]["tasks"]["OK-VQA"]["difference"]
    assert data["tasks"][1]["differences"][pair][0] == pytest.approx(expected, abs=1e-5)
    settings = {row["name"]: row for row in data["settings"]}
    assert settings["num frames"]["values"] == ["4", "8", "8"]
    assert [name for name, row in settings.items() if row["differs"]] == ["num frames"]
    tiles = settings["max tiles"]  # a 0 is a value; a null is none, so that nothing differs
    assert tiles["values"] == ["none", "0", "0"] and tiles["common"] == "0"
    facts = data["models"][1]["facts"]
    assert facts["seconds"] == 12.5 * 5 and facts["commit"] == "0123456789"
    assert facts["items / s"] == round(16 * 5 / 62.5, 1) and facts["texts cut"] == 5


def test_a_collapsed_model_is_marked(tmp_path: Path) -> None:
    """At the model, on its map and at every query; the others are not."""
    collapsed = write_results(tmp_path, num_queries=8, size=24, collapsed=["before"])
    data = written(collapsed, tmp_path / "report.html")[1]
    before, *others = data["models"]
    said = " ".join(before["warnings"])
    assert "collapsed" in said and "tied scores" in said and "not above chance" in said
    assert "collapsed" in data["map"]["collapsed"][0]
    assert data["map"]["collapsed"][1:] == [None, None]
    assert not any(word in str(others) for word in ("collapsed", "tied scores"))
    answers = [card["answers"] for card in data["gallery"]]
    assert all(a["tied"] == 8 and a["value"] == 1 / 8 and not a["hit"] for a, *_ in answers)
    assert not any("tied" in answer for _, *rest in answers for answer in rest)


def test_a_task_that_a_model_cannot_do(models: dict[str, Path], tmp_path: Path) -> None:
    found = json.loads((models["before"] / "FashionIQ.json").read_text())
    write_result(models["before"], refused(found, "text only"))
    # The files beside it stay: an earlier evaluation of another model may have left them.
    data = written((report_on(models), models), tmp_path / "report.html")[1]
    task = data["tasks"][3]
    assert task["scores"][0] is None and task["not_supported"] == ["text only", None, None]
    assert data["overall"]["cells"][0] is None
    cards = [card for card in data["gallery"] if card["task"] == 3]
    assert cards and all(c["answers"][0] is None and c["answers"][2]["top"] for c in cards)
    assert data["matrices"][3]["models"][0] is None and data["matrices"][3]["models"][1]


def test_pictures_that_are_not_there(
    results: Written, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")
    for folder in models.values():
        path = folder / "image/ImageNet-1K_pred.jsonl"
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        lines[0]["query"]["images"] = [str(tmp_path / "gone.png")]
        lines[1]["query"]["images"] = [str(damaged)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, data = written((results[0], models), tmp_path / "report.html")
    assert data["not_shown"] == {"missing": 1, "unreadable": 1}
    assert "1 missing, 1 unreadable" in capsys.readouterr().out
    shown = [item.get("images") for item in data["items"]]
    assert ["missing: gone.png"] in shown and ["unreadable: damaged.png"] in shown
    assert any("gone.png: there is no such image" in problem for problem in data["problems"])


def test_each_picture_once_and_small(tmp_path: Path) -> None:
    first = write_picture(tmp_path / "a.png", 1, size=400)
    copy = shutil.copy(first, tmp_path / "copy.png")
    other = write_picture(tmp_path / "b.png", 2, size=40)
    pictures = Pictures()
    paths = [str(first), str(copy), str(other), str(first)]
    pictures.ask(paths)
    pictures.load(10**6)
    assert [pictures.shown(path) for path in paths] == [0, 0, 1, 0] and not pictures.counts
    sizes = []
    for uri in pictures.uris:
        kind, _, content = uri.partition(",")
        assert kind == "data:image/webp;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(content))).size)
    assert sizes == [(SIZE, SIZE), (40, 40)]


def test_the_limit_keeps_some_of_every_task(results: Written, tmp_path: Path) -> None:
    full = written(results, tmp_path / "full.html")[1]
    limit = sum(map(len, full["pictures"])) // 2
    data = written(results, tmp_path / "half.html", max_megabytes=limit / 1e6)[1]
    assert 0.8 * limit < sum(map(len, data["pictures"])) <= limit
    assert data["not_shown"]["left out"] > 10
    pictured = set()
    for card in data["gallery"]:
        items = [data["items"][place] for place in (card["query"], *card["gold"])]
        images = [i for item in items for i in item.get("images", []) + item.get("frames", [])]
        if images and all(isinstance(image, int) for image in images):
            pictured.add(card["task"])
    assert pictured == set(range(len(TASKS)))


def test_chosen_queries_show_hits_and_misses_of_every_model() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        hits = (random.random((30, 3)) < random.random(3)).tolist()
        chosen = choose_queries(hits, 6)
        assert chosen == choose_queries(hits, 6) == sorted(set(chosen)) and len(chosen) == 6
        for model in range(3):
            there = {row[model] for row in hits}
            assert {hits[number][model] for number in chosen} == there
    assert choose_queries([[True]] * 3, 8) == [0, 1, 2]
    assert choose_queries([[True]] * 9 + [[False]], 2) == [0, 9]
    assert choose_queries([[True]] * 16, 4) == [0, 4, 8, 12]
    assert sorted(spread(list(range(11)))) == list(range(11))


def test_similarities_are_cosines() -> None:
    queries = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, -5.0]])
    found = similarity_matrix(queries, targets)
    root = 0.5**0.5
    expected = [1, 1, 0, 0, 0, -1, root, root, -root]
    cells = np.frombuffer(base64.b64decode(found["cells"]), "<i2") / 32767
    assert cells == pytest.approx(expected, abs=2e-5)
    assert found["diagonal"] == pytest.approx((1 + 0 - root) / 3)
    assert found["off_diagonal"] == pytest.approx((1 + 0 + 0 - 1 + root + root) / 6)
    assert found["copies"] == 2 and found["range"] == pytest.approx([-1, 1])
    assert np.frombuffer(base64.b64decode(packed(np.array([np.nan]))), "<i2") == [-32768]


def test_projection() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.eye(3, 8) * 9, FEW // 3 - 1, axis=0)
    points = np.vstack([groups + random.normal(size=groups.shape), np.full((1, 8), np.nan)])
    method, places = project(points, 0)
    assert method == "PCA" and np.isnan(places[-1]).all() and np.abs(places[:-1]).max() == 1
    own = places[:-1].reshape(3, -1, 2)
    assert own.std(axis=1).max() < 0.2 * own.mean(axis=1).std(axis=0).max()
    assert (project(points, 0)[1][:-1] == places[:-1]).all()
    assert (project(np.ones((60, 8)), 0)[1] == 0).all()  # a collapsed model


@pytest.mark.evaluation
def test_projection_of_many() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.eye(3, 8) * 20, 30, axis=0)
    points = groups + random.normal(size=groups.shape)
    method, places = project(points, 1)
    own = places.reshape(3, -1, 2)
    assert method == "t-SNE" and (places == project(points, 1)[1]).all()
    assert own.std(axis=1).max() < 0.5 * own.mean(axis=1).std(axis=0).max()


def test_long_texts_are_cut_and_say_so() -> None:
    items = Items(Pictures())
    for length in (LONGEST, LONGEST + 1):
        items.place(Item(text="x" * length))
    assert items.place(Item(text="x" * LONGEST)) == 0
    full, cut = items.content()
    assert "length" not in full and cut["length"] == LONGEST + 1 and cut["text"] == full["text"]


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (7, "", "7 lines, but num_queries is 8"),
        (0, "{", "row 0: not JSON"),
        (0, "\udcff", "row 0: not JSON: 'utf-8' codec"),
        (2, {"query": {"images": [5]}}, r"row 2: query: images\[0\] is 5"),
        (0, {"scores": ["a"]}, r"row 0: scores\[0\] is 'a'"),
        (0, {"gold": ["a"]}, r"row 0: gold\[0\] is 'a'"),
        (0, {"gold_score": float("nan")}, "gold_score is nan"),
        (7, {"prediction": 5}, "row 7: prediction is 5"),
    ],
)
def test_damaged_predictions(
    results: Written, models: dict[str, Path], tmp_path: Path, row: int, change: Any, message: str
) -> None:
    path = models["before"] / "image/OK-VQA_pred.jsonl"
    lines = path.read_text().split("\n")[:-1]
    lines[row] = change if isinstance(change, str) else json.dumps(json.loads(lines[row]) | change)
    path.write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=f"OK-VQA_pred.jsonl.*{message}"):
        write_page(results[0], models, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_damaged_sample_and_result(models: dict[str, Path]) -> None:
    folder = models["before"]
    (folder / "image/OK-VQA_sample.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="OK-VQA_sample.safetensors: not a sample"):
        read_task_files(folder, "OK-VQA")
    (folder / "FashionIQ.json").write_text("[]")
    with pytest.raises(DataError, match="FashionIQ.json: expected a JSON object"):
        read_task_files(folder, "FashionIQ")


def test_a_page_that_cannot_be_written(results: Written, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_page(*results, tmp_path / "file/r.html", map_points=2)
