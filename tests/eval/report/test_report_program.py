"""The report's program: what it prints and writes.

./launch.sh test tests/eval/report/test_report_program.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.report import build as report
from eval.report import leaderboard
from eval.report.averages import averages_of
from eval.report.printing import print_report, published_table
from eval.report.published_rows import published_for
from eval.tasks.suites import load_suite
from tests.eval.report.conftest import Values, config, play, write_results
from tests.support.paths import ROOT
from tests.support.published.vlm2vec_reporter import SCORES
from unime.config import ReportConfig
from unime.errors import ConfigError


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
    stored = SCORES
    suite = {
        task: f"{{meta_task: {modality}, modality: {modality}}}"
        for modality in ("image", "video", "visdoc")
        for task in stored[modality]
    }
    values: Values = {task: [1, 0, 1, 1, 0, 0, 1, 1, 1, 1] for task in suite}
    names = ["base", "stage1", "stage1_stage2", "stage2", "infonce"]
    for name in names:
        write_results(tmp_path / name, values)
    built = report.build_report(config(tmp_path, suite, names))
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
    settings = config(tmp_path, names=["m"])
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


def test_published_rows_are_sorted_by_the_mean_over_tasks() -> None:
    """UniME LLaVA-1.6's macro average is above VLM2Vec-V2.0's, its micro average below."""
    names = ["UniME LLaVA-1.6", "VLM2Vec-V2.0 Qwen2-VL-2B, re-run"]
    suite = load_suite(str(ROOT / "configs/suites/mmeb.yaml"))
    published = published_for(averages_of(suite), list(suite), names)
    built = {"models": {}, "overall": "all-78", "published": published}
    shown = published_table(built, "mmeb-v1")
    assert [row[0] for row in shown[1:]] == names[::-1]


def test_the_page_and_the_leaderboards_file(
    two_models: ReportConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are called with what they need, where they are asked for."""
    called: list[Any] = []
    monkeypatch.setattr(
        "eval.page.build.write_page", lambda *w, figures: called.append((*w, figures)) or "written"
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
    (reported, model, output, metadata), (found, models, path, figures) = called
    assert (model, output) == ("tuned", tmp_path / "out/Mine-2B.json")
    assert metadata == {"model_name": "Mine-2B", "model_size": "2B"}
    assert reported == found == json.loads(Path(two_models.output).read_text())
    assert models == {"base": tmp_path / "base", "tuned": tmp_path / "tuned"}
    assert path == tmp_path / "out/page.html" and not figures
