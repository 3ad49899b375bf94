"""Where things lie on this machine is in nothing that is made for others: not in an export, a
report or a page.
./launch.sh test tests/export/test_places.py
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.page.build import write_page
from eval.report.printing import markdown_report
from stages import export
from tests.support.exported_runs import REPORT, train_small
from tests.support.pages.results import report_on, write_results
from unime.config import Stage1Config, Stage2Config, build_config, dump_config
from unime.runtime.files import write_json
from unime.runtime.names import LONGEST, for_others

HOME = Path.home() / "someone"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """An absolute folder, of a name that nothing else has."""
    (tmp_path / "secret-place").mkdir()
    return tmp_path / "secret-place"


def check_nothing_told(folder: Path) -> None:
    private = [b"secret-place", os.fsencode(HOME), b"SECRET", socket.gethostname().encode()]
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths and ".lock" not in {path.name for path in folder.rglob("*")}
    told = {
        f"{path.name}: {secret!r}"
        for path in paths
        for secret in private
        if len(secret) > 3 and secret in path.read_bytes()
    }
    assert not told


def write_run(desk: Path, base: Path) -> Path:
    """A run of stage 2 after one of stage 1, of which every setting is an absolute path."""
    processor = shutil.copytree(base, desk / "processor")
    run, first = desk / "run", desk / "first"
    train_small(shutil.copytree(base, desk / "base"), run, processor=str(processor))
    model = [f"model.name={desk}/base", f"model.processor={processor}"]
    words = [*model, f"data.texts=[{desk}/texts.jsonl]", f"data.teacher={HOME}/teacher"]
    words += ["optim.steps=1", f"run.output_dir={first}"]
    words += ["optim.batch_size_per_device=2", "optim.chunk_size=2", "optim.learning_rate=1.0"]
    first.mkdir()
    (first / "config.yaml").write_text(dump_config(build_config(Stage1Config, None, words)))
    words = [*model, f"model.adapter={first}/final", f"data.root={HOME}/data"]
    words += [f"data.image_root={desk}/images", "data.sources.A={}", f"run.output_dir={run}"]
    words += ["optim.steps=1", "optim.batch_size_per_device=2", "optim.chunk_size=2"]
    words += ["optim.learning_rate=1.0"]
    (run / "config.yaml").write_text(dump_config(build_config(Stage2Config, None, words)))
    return run


@pytest.mark.parametrize("words", [["code=false"], ["form=adapter"]], ids=["merged", "adapter"])
def test_an_export(
    words: list[str], desk: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET")
    run = write_run(desk, tiny_model("qwen2_vl"))
    warning = f"{desk}/data/a b.json: of 'x' in {HOME}/rows.json"
    report = REPORT | {"suite": f"{desk}/mini.yaml"}
    report["models"]["stage2"]["warnings"] = [warning]  # type: ignore[index]
    write_json(desk / "report.json", report)
    export.main([str(run), str(desk / "out"), f"report={desk}/report.json", *words])
    check_nothing_told(desk / "out")
    made = (desk / "out/config.yaml").read_text()
    assert "Stage 1, distillation" in made and "teacher: teacher" in made


def test_a_report_and_its_page(desk: Path) -> None:
    _, models = write_results(desk / "results", num_queries=6, size=16)
    for folder in models.values():
        for path in folder.glob("*.json"):
            found = json.loads(path.read_text())
            found |= {"model": f"{HOME}/base", "adapter": f"{desk}/run/final"}
            found["inputs"] |= {"prompt": f"{desk}/prompt"}
            path.write_text(json.dumps(found))
    (gone := next((desk / "results/pictures").rglob("*.png"))).unlink()
    gone.with_name(gone.name).write_bytes(b"no picture")
    report = report_on(models)
    (desk / "out").mkdir()
    write_page(report, models, desk / "out/page.html", map_points=20)
    write_json(desk / "out/report.json", report)
    (desk / "out/report.md").write_text(markdown_report(report), encoding="utf-8")
    check_nothing_told(desk / "out")
    page = (desk / "out/page.html").read_text()
    assert gone.name in page and '"adapter":"final"' in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/models/base", "base"),
        ("~/models/base", "base"),
        ("/a folder/with spaces", "with spaces"),
        ("no task in /home/me/x.json, row 3", "no task in x.json, row 3"),
        ("got '/home/me/x y', expected", "got 'x y', expected"),
        ("TIGER-Lab/MMEB-eval and/or https://arxiv.org/abs/2504.17432", None),
        ("a / b, 1/2, ../x, runs/x/final", None),
        ("", None),
        ("/", None),
        ("\x1b[31mred\x00\ud800", "\ufffd[31mred\ufffd\ufffd"),
        ("x" * 1_000_000, "x" * LONGEST + " …"),
        (
            ["/a/b", {"k": "/c/d", "n": 1.5, "none": None}],
            ["b", {"k": "d", "n": 1.5, "none": None}],
        ),
    ],
)
def test_what_others_see(text: object, shown: object) -> None:
    assert for_others(text) == (text if shown is None else shown)
