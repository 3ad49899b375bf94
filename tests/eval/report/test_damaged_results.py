"""Damaged and hostile results: report and page name them in one line, or show what is right.

./launch.sh test tests/eval/report/test_damaged_results.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from eval.page.build import write_page
from eval.report.__main__ import main as report_main
from eval.tasks.suites import load_suite
from tests.support.pages.results import report_on, write_results
from tests.support.paths import ROOT
from unime.config import ReportConfig
from unime.errors import ConfigError, DataError

LONG = "n" * 1_000_000
WRONG: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**400, -(10**400), 1e308, float("nan"), float("inf"), "", "x"),
    *([], [[]], {}, {"a": {}}, "\ud800", "x" * 100_000, "../../x", ["\0"], "\x1b[2J"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_results(folder, num_queries=5, size=16)
    return folder


@pytest.fixture
def models(whole: Path, tmp_path: Path) -> dict[str, Path]:
    copied = shutil.copytree(whole, tmp_path / "results", symlinks=True)
    return {
        path.name: path for path in sorted(copied.iterdir()) if path.name.startswith(("b", "a"))
    }


def report_and_page(models: dict[str, Path], output: Path) -> str | None:
    """What is said of the results; None: they were taken, and make a page of a usual size."""
    try:
        report = report_on(models)
        write_page(report, models, output, map_points=20)
    except (DataError, ConfigError) as error:
        return str(error)
    assert output.stat().st_size < 1_000_000
    return None


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Cut, flipped, zeroed, doubled, emptied."""
    place = draw.randrange(len(content))
    size = draw.choice((1, 8, 64))
    way = draw.randrange(5)
    if way == 0:
        return content[:place]
    if way == 1:
        return bytes(
            [*content[:place], content[place] ^ 1 << draw.randrange(8), *content[place + 1 :]]
        )
    if way == 2:
        return content[:place] + bytes(size) + content[place + size :]
    return (
        content[:place] + content[place : place + size] * 2 + content[place + size :]
        if way == 3
        else b""
    )


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files(
    seed: int, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of a result, its predictions or its sample: of bytes, and of values in its JSON."""
    draw = random.Random(seed)
    files = [p for folder in models.values() for p in sorted(folder.rglob("*")) if p.is_file()]
    path = draw.choice([file for file in files if "_score" not in file.name])
    if path.suffix == ".safetensors" or draw.random() < 0.4:
        path.write_bytes(damaged(draw, path.read_bytes()))
    else:
        lines = (
            path.read_text().strip().split("\n") if path.suffix == ".jsonl" else [path.read_text()]
        )
        number = draw.randrange(len(lines))
        found = json.loads(lines[number])
        at = found
        key = draw.choice(list(at))
        while isinstance(at[key], dict | list) and at[key] and draw.random() < 0.5:
            at = at[key]
            key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at[key] = draw.choice(WRONG)
        lines[number] = json.dumps(found)
        path.write_text("\n".join(lines))
    said = report_and_page(models, tmp_path / "page.html")
    if said is not None:
        assert len(said.splitlines()) == 1 and len(said) < 2000
        assert path.name in said or path.name.split("_")[0] in said or path.stem in said, said


def write_sample(path: Path, queries: torch.Tensor, targets: torch.Tensor) -> None:
    save_file({"queries": queries.clone(), "targets": targets.clone()}, path)


def lines_of(path: Path, **changes: Any) -> None:
    rows = [json.loads(line) | changes for line in path.read_text().strip().split("\n")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


SAMPLE, LINES = "image/OK-VQA_sample.safetensors", "image/OK-VQA_pred.jsonl"
HOSTILE: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "a sample of another width": (
        lambda p: write_sample(p / SAMPLE, torch.ones(5, 3), torch.ones(5, 3)), "after_stage_2"),
    "a sample of fewer rows": (
        lambda p: write_sample(p / SAMPLE, torch.rand(2, 16), torch.rand(2, 16)), "OK-VQA_sample"),
    "a sample of none": (
        lambda p: write_sample(p / SAMPLE, torch.ones(0, 16), torch.ones(0, 16)), "OK-VQA_sample"),
    "a sample of many": (
        lambda p: write_sample(p / SAMPLE, torch.ones(9, 16), torch.ones(9, 16)), "OK-VQA_sample"),
    "a sample that is not finite": (
        lambda p: write_sample(p / SAMPLE, torch.full((5, 16), torch.nan), torch.ones(5, 16)),
        "OK-VQA_sample"),
    "a sample of whole numbers": (
        lambda p: write_sample(p / SAMPLE, *torch.ones(2, 5, 16, dtype=torch.int64)), None),
    "a pipe as a result": (
        lambda p: ((p / "OK-VQA.json").unlink(), os.mkfifo(p / "OK-VQA.json")), "OK-VQA"),
    "a pipe as predictions": (lambda p: ((p / LINES).unlink(), os.mkfifo(p / LINES)), None),
    "a folder as predictions": (lambda p: ((p / LINES).unlink(), (p / LINES).mkdir()), None),
    "zero bytes among predictions": (
        lambda p: (p / LINES).write_bytes((p / LINES).read_bytes() + bytes(100)), "OK-VQA_pred"),
    "many pictures on a line": (
        lambda p: lines_of(p / LINES, top=[{"text": "x"}] * 9, scores=[0.5] * 9), "OK-VQA_pred"),
    "long texts": (
        lambda p: lines_of(p / LINES, query=dict.fromkeys(("text", "instruction"), LONG)), None),
    "long names of pictures": (
        lambda p: lines_of(p / LINES, query={"images": ["y" * 1_000_000]}), None),
    "a line of many megabytes": (
        lambda p: lines_of(p / LINES, label=["x" * 10**7]), "OK-VQA_pred.jsonl, row 0: a line of"),
    "paths of no file": (
        lambda p: lines_of(p / LINES, query={"images": ["\0", "\ud800", "x" * 5000, ""]}), None),
    "deep brackets": (lambda p: (p / LINES).write_text("[" * 100_000), "OK-VQA_pred"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    attack, said = HOSTILE[name]
    for folder in models.values() if said is None else [models["after_stage_2"]]:
        attack(folder)
    found = report_and_page(models, tmp_path / "page.html")
    assert (said is None) == (found is None), found
    assert said is None or (said in str(found) and "\n" not in str(found))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": LONG, "adapter": LONG, "device": LONG, "commit": LONG, "encoder": LONG},
        {"versions": {"torch": LONG, LONG: "1"}, "inputs": {"prompt": LONG, LONG: LONG}},
        {"model": "\ud800", "device": "\x1b]0;x\x07", "inputs": {"prompt": "[/red]"}},
    ],
)
def test_names_of_a_megabyte(
    changes: dict[str, Any], models: dict[str, Path], tmp_path: Path
) -> None:
    """Neither the page nor the report becomes large, and both are written."""
    for folder in models.values():
        for path in folder.glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    suite = models["before"].with_name("generated.yaml")
    words = [f"suite={suite}", f"output={tmp_path}/out/report.json", f"html={tmp_path}/out/p.html"]
    words += [f"models.{name}={folder}" for name, folder in models.items()]
    (tmp_path / "report.yaml").write_text("published: false\nbootstrap_samples: 9\n")
    report_main(["--config", str(tmp_path / "report.yaml"), *words])
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(sizes) == {"report.json", "report.md", "p.html"}
    assert max(sizes.values()) < 1_000_000, sizes


@pytest.mark.parametrize("name", ["", LONG, "a|b", "a\nb", "\x1b[2J", "n" * 101])
def test_names_of_models_are_names(name: str) -> None:
    with pytest.raises(ConfigError, match="models: got .{0,250}, expected a name of 100 char"):
        ReportConfig({name: "folder"}, "suite", output="r.json")


def test_a_models_name_is_no_markup_and_no_element(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {f"[/{name}]<img src=x>": folder for name, folder in models.items()}
    suite = models["before"].with_name("generated.yaml")
    settings = {"models": {n: str(f) for n, f in named.items()}, "suite": str(suite)}
    settings |= {"output": f"{tmp_path}/report.json", "baseline": "[/before]<img src=x>"}
    (tmp_path / "report.yaml").write_text(json.dumps(settings))
    report_main(["--config", str(tmp_path / "report.yaml")])
    assert "[/before]<img" in capsys.readouterr().out
    tables = (tmp_path / "report.md").read_text()
    assert "[/before]&lt;img" in tables and "<" not in tables


INSERTED = b"&a |*a |<<: |!!int |!!python/object:os.system |[|{|\0|\xff|${oc.env:HOME}|\n---\n|? "


def test_damaged_suites(tmp_path: Path) -> None:
    """120 of them: refused in one line that names the file, or read."""
    path, refused = tmp_path / "suite.yaml", 0
    content = (ROOT / "configs/suites/mmeb_v2_video.yaml").read_bytes()[:1200]
    for seed in range(120):
        draw = random.Random(seed)
        text, place = damaged(draw, content), draw.randrange(len(content))
        path.write_bytes(text[:place] + draw.choice([b"", *INSERTED.split(b"|")]) + text[place:])
        try:
            load_suite(str(path))
        except ConfigError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1 and str(path) in str(error), str(error)
    assert refused > 60
