"""A file imports from its own room and from those before it in CONTRIBUTING's list, and no files
import each other in a circle: ./launch.sh test tests/test_layers.py"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LISTED = (ROOT / "CONTRIBUTING.md").read_text().partition("## Rooms")[2].partition("\n## ")[0]
ROOMS = re.findall(r"^\d+\. `([\w./]+?)(?:\.py|/)`", LISTED, re.MULTILINE)
PATHS = {
    path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__"): path
    for top in dict.fromkeys(room.partition("/")[0] for room in ROOMS)
    for path in (ROOT / top).rglob("*.py")
}


def room_of(module: str) -> int:
    """The last room in whose folder it lies; `unime` itself hands all of the library on."""
    if module == "unime":
        module = max((room for room in ROOMS if room.startswith("unime/")), key=ROOMS.index)
    return max((n for n, room in enumerate(ROOMS) if f"{module}/".startswith(f"{room}/")))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.replace(".", "/") for name in names} & PATHS.keys()
    return found


def test_imports_go_down_and_in_no_circle() -> None:
    assert len(ROOMS) > 15
    graph = {module: imported(path) - {module} for module, path in PATHS.items()}
    upward = [f"{m} <- {n}" for m in graph for n in graph[m] if room_of(n) > room_of(m)]
    assert upward == []
    packages = {m for m, path in PATHS.items() if path.name == "__init__.py"}
    list(graphlib.TopologicalSorter({m: n - packages for m, n in graph.items()}).static_order())


@pytest.mark.parametrize("module", ["unime", "unime.config", "eval.report.__main__"])
def test_what_needs_no_torch_loads_none(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'transformers'}} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
