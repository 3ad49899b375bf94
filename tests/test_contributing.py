"""What CONTRIBUTING.md names is there, pre-commit runs what it says, and docstrings are whole.

./launch.sh test tests/test_contributing.py
"""

from __future__ import annotations

import ast
import importlib
import re

import pytest
import yaml

from tests.support.paths import ROOT
from unime.config import EvalConfig, Stage2Config
from unime.config.reading.descriptions import settings_of

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
INLINE = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))


def test_files_and_folders() -> None:
    words = {word for code in INLINE for word in code.split()}
    paths = [word for word in words if re.fullmatch(r"\w[\w.-]*/[\w./-]*|\w+\.(md|sh)", word)]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_tests_that_documents_name() -> None:
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = []
    for path in (ROOT / "docs").glob("*.md"):
        file = ""
        for found in re.finditer(r"(?:(test_\w+\.py)|…)?::(\w+)", path.read_text()):
            file = found[1] or file
            named.append((path.name, file, found[2]))
    assert len(named) > 30
    assert [one for one in named if f"def {one[2]}(" not in tests.get(one[1], "")] == []


def test_commands() -> None:
    called = set(re.findall(r"\./launch\.sh (\w+)", TEXT))
    assert called == {"test", "lint", "eval"}
    script = (ROOT / "launch.sh").read_text()
    assert all(re.search(rf"^  {name}\b", script, re.MULTILINE) for name in called)


def test_settings() -> None:
    keys = {setting.key for cls in (Stage2Config, EvalConfig) for setting in settings_of(cls)}
    named = set(re.findall(r"data\.(?:\w+)", TEXT)) - {"data.py"}
    assert {"data.sources", "data.suite", "data.tasks", "data.limit"} == named <= keys


def test_names() -> None:
    places = {
        "unime.backbones.families": ("Backbone", "BACKBONES"),
        "tests.support.tiny.models": ("FAMILIES",),
        "tests.models.test_prompts": ("GOLDEN",),
        "tests.config.test_shipped": ("BACKBONES",),
        "unime.inputs.items": ("Pair",),
        "unime.data.datasets": ("PairDataset",),
        "unime.losses": ("LossOutput",),
        "unime.training.loop": ("train",),
        "eval.tasks.suites": ("FORMATS",),
        "eval.tasks.base": ("EvalTask",),
    }
    for module, names in places.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
            assert f"`{name}" in TEXT, name
    report = (ROOT / "tests/eval/report/test_report.py").read_text()
    assert "def test_the_suite_of_mmeb" in report and "mmeb_v1 or report or miniatures" in TEXT


@pytest.mark.parametrize("package", ["unime", "eval"])
def test_docstrings_begin_with_a_sentence(package: str) -> None:
    others = []
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                summary = (text or "").partition("\n\n")[0]
                is_sentence = re.search(r"[.?!…][)\"'`]*(\s|$)", summary)
                if text is not None and (not is_sentence or re.match(r"\w+:\n", text)):
                    others.append(f"{path}: {getattr(node, 'name', 'module')}")
    assert others == []


def test_pre_commit_runs_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert "./launch.sh lint" in [hook["entry"] for hook in repository["hooks"]]
