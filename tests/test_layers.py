"""A file imports from its own room and from those before it in CONTRIBUTING's list, and no files
import each other in a circle: ./launch.sh test tests/test_layers.py"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LISTED = (ROOT / "CONTRIBUTING.md").read_text().partition("## Rooms")[2].partition("\n## ")[0]
ROOMS = re.findall(r"^\d+\. `([\w./]+?)(?:\.py|/)`", LISTED, re.MULTILINE)
PATHS = {
    path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__"): path
    for top in dict.fromkeys(room.removesuffix("/support").partition("/")[0] for room in ROOMS)
    for path in (ROOT / top).rglob("*.py")
    if not path.name.startswith("test_")
}
OTHERS = ("tests", "tests/conftest")  # which no room may import


def room_of(module: str) -> int:
    """Its place in the list; `unime` itself hands all of the library on."""
    if module in OTHERS or (module.startswith("tests/") and "/support" not in module):
        return len(ROOMS)
    if module == "unime":
        return max(n for n, room in enumerate(ROOMS) if room.startswith("unime/"))
    found = [room for room in ROOMS if f"{module}/".startswith(f"{room}/")]
    assert found, f"{module} is in no room of CONTRIBUTING's list"
    return ROOMS.index(max(found, key=len))


def imported(module: str, path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition("/")[0]
            above = package.split("/")[: len(package.split("/")) + 1 - node.level]
            start = ".".join([*above * bool(node.level), *filter(None, [node.module])])
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.replace(".", "/") for name in names} & PATHS.keys()
    return found - {module}


def test_imports_go_down_and_in_no_circle() -> None:
    assert len(ROOMS) > 15
    graph = {module: imported(module, path) for module, path in PATHS.items()}
    place = {module: room_of(module) for module in PATHS}
    upward = [f"{m} <- {n}" for m in graph for n in graph[m] if place[n] > place[m]]
    assert upward == []
    packages = {m for m, path in PATHS.items() if path.name == "__init__.py"}
    list(graphlib.TopologicalSorter({m: n - packages for m, n in graph.items()}).static_order())


def test_no_folder_is_too_full() -> None:
    counts = Counter(path.parent for path in PATHS.values() if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > 14} == {}


@pytest.mark.parametrize("module", ["unime", "unime.config", "eval.report.__main__"])
def test_what_needs_no_torch_loads_none(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'transformers'}} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
