"""Disks that are full or read only, and places that are no folder: one line each, nothing lost.

./launch.sh test tests/eval/test_disks.py
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.demo import data as demo_data
from eval import evaluate
from eval.miniatures import __main__ as miniatures
from eval.miniatures.mmeb import write_eval_suite
from eval.report import __main__ as report
from stages import export
from tests.eval.report.conftest import HITS, write_results, write_suite
from tests.support.exported_runs import train_small
from tests.support.paths import ROOT
from unime.runtime.program import run_program

SMALL = "train_rows: 4\ntest_queries: 3\nvalidation_queries: 3\ntrain_words: 4\ncandidates: 3\n"
Program = Callable[[list[str]], None]


def programs(desk: Path, output: str) -> dict[str, tuple[Program, list[str]]]:
    """Every program of these rooms, and its words to write to a place."""

    def of(name: str, key: str, *words: str) -> list[str]:
        return ["--config", f"{desk}/{name}.yaml", f"{key}={json.dumps(output)}", *words]

    return {
        "report": (report.main, of("report", "output", f"output={output}.json")),
        "page": (report.main, of("report", "html")),
        "eval": (evaluate.main, of("eval", "output_dir")),
        "export": (export.main, [f"{desk}/run", output, "form=adapter"]),
        "miniatures": (miniatures.main, [output]),
        "demo data": (demo_data.main, of("demo", "output_dir")),
    }


def play(program: Program, words: list[str]) -> tuple[int, str]:
    """The status of a program, and what it says to stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_program(lambda: program(words))
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """All that the programs read."""
    desk = tmp_path_factory.mktemp("desk")
    write_results(desk / "base", {task: [0] * len(hits) for task, hits in HITS.items()})
    models = f"models: {{base: {desk}/base}}\nsuite: {write_suite(desk)}\nbootstrap_samples: 9\n"
    (desk / "report.yaml").write_text(f"{models}output: {desk}/report.json\n")
    (desk / "demo.yaml").write_text(f"output_dir: o\n{SMALL}")
    write_eval_suite(desk / "data", desk / "pairs.yaml")
    (desk / "eval.yaml").write_text(
        f"output_dir: o\nmodel: {{name: {tiny_model('qwen2_vl')}, quantization: none}}\n"
        f"data: {{root: {desk}/data, suite: {desk}/pairs.yaml, cache: {desk}/cache}}\n"
    )
    train_small(tiny_model("qwen2_vl"), desk / "run")
    return desk


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ODD = {  # where a program is to write, and what is there
    "a file": "taken",
    "below a file": "taken/out",
    "a long name": "x" * 300,
    "a long path": "x/" * 3000,
    "nothing": "",
    "a zero byte": "a\0b",
    "half a character": "a\ud800",
}


@pytest.mark.parametrize("name", ["report", "page", "eval", "export", "miniatures", "demo data"])
@pytest.mark.parametrize("place", ODD)
def test_odd_output_paths(
    name: str, place: str, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit status 2, and what is there stays."""
    if (name, place) in {("report", "a file"), ("report", "nothing"), ("page", "a file")}:
        pytest.skip("a file takes a file's place")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "taken.json").mkdir()
    program, words = programs(desk, ODD[place])[name]
    if name == "demo data" and place == "half a character":
        words[2] = 'output_dir="a\\ud800"'
    status, said = play(program, words)
    lines = [line for line in said.splitlines() if line]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), said
    assert len(lines[0]) < 5000 and "output" in said or "html" in said or "FOLDER" in said
    assert contents(tmp_path) == {str(tmp_path / "taken"): b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "taken.json"}


@pytest.mark.parametrize("name", ["page", "report", "export", "miniatures", "demo data"])
def test_a_folder_that_holds_something_else_stays(name: str, desk: Path, tmp_path: Path) -> None:
    for folder in ("out", "out.json"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    status, said = play(*programs(desk, f"{tmp_path}/out")[name])
    assert status == 2 and said.startswith("error: ") and len(said.splitlines()) == 1, said
    assert contents(tmp_path) == before


# kB of a disk that is too small, several for programs that write several files; and read only
SIZES = {
    "quick": {"report": ("ro", 4, 12), "page": ("ro", 12), "eval": ("ro", 4, 16, 20, 28, 40)},
    "all": {
        "report": (8,),
        "eval": (8, 12, 24, 32, 36, 48),
        "export": ("ro", 4, 40, 60),
        "miniatures": ("ro", 400),
        "demo data": ("ro", 100),
    },
}


def on_small_disks(desk: Path, disk: Path, which: str) -> Iterator[dict[str, Any]]:
    """What every program says on disks that are too small, and then on larger ones. Mounts in its
    own name space (unshare)."""
    for name, size in [(name, size) for name, of in SIZES[which].items() for size in of]:
        option = "ro" if size == "ro" else f"size={size}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", option, "none", disk], check=True)
        program, words = programs(desk, f"{disk}/out")[name]
        outcome = play(program, words)
        parts = [str(path) for path in disk.rglob("*.partial")]
        subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
        again = play(program, words)
        yield {"case": (name, size), "first": outcome, "again": again, "parts": parts}
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("which", ["quick", pytest.param("all", marks=pytest.mark.evaluation)])
def test_full_and_read_only_disks(which: str, desk: Path, tmp_path: Path) -> None:
    """One line, no traceback, nothing half written; then the same command finishes."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("no name space of mounts of its own is permitted here")
    code = (
        "import json, sys; from tests.eval.test_disks import *; desk, disk, which = sys.argv[1:]\n"
    )
    code += (
        "for found in on_small_disks(Path(desk), Path(disk), which): print('>', json.dumps(found))"
    )
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code, desk, tmp_path / "disk", which],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("> ")]
    assert len(found) == sum(map(len, SIZES[which].values()))
    assert not [outcome["case"] for outcome in found if outcome["first"][0] == 0], "large enough"
    for outcome in found:
        (status, said), (last, _) = outcome["first"], outcome["again"]
        lines = [line for line in said.splitlines() if "error: " in line]
        assert status in (1, 2) and len(lines) == 1 and str(tmp_path) in lines[0], outcome
        assert "Traceback" not in said and not outcome["parts"], outcome
        assert last == 0, outcome
