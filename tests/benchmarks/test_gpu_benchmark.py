"""benchmarks/gpu with tiny models on this machine's CPU, where every section runs; and what it
measured on a GPU, beside what the planner says today.

python -m pytest tests/benchmarks/test_gpu_benchmark.py -m "engines or not engines"
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import Report, main
from benchmarks.gpu.models import Material, write_qwen2_vl_2b
from benchmarks.gpu.steps import GIB, Case
from benchmarks.gpu.tables import tables
from benchmarks.markdown import fill
from tests.support.paths import ROOT
from unime.planning.planner import make_plan

DOCS = ROOT / "docs"
MEASURED = [
    json.loads((DOCS / f"results/{name}.json").read_text())
    for name in ("gpu", "gpu_second", "gpu_third")
]


@pytest.fixture(scope="module")
def two_b(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(write_qwen2_vl_2b(tmp_path_factory.mktemp("2b")), [])


def test_the_planners_memory_is_what_a_gpu_measured(two_b: Material) -> None:
    measured = {
        Case(**{**row["case"], "tf32": False}): row["peak GiB"]
        for row in MEASURED[0]["sections"]["speed"]["cases"]
        if not row["case"]["autocast"]
    }
    assert len(measured) == 6
    for case, peak in measured.items():
        plan = make_plan(case.config(two_b, small=False))
        planned = sum(plan.memory.values()) / GIB - plan.config.plan.overhead_gib
        assert 0.95 * peak < planned < 1.1 * peak, case


def test_the_plan_says_which_chunk_fitted(two_b: Material) -> None:
    """The program halved 64 and 32, and went on with 16."""
    halved = MEASURED[0]["sections"]["memory full"]["halved"]
    assert len(halved) == 2 and halved[-1].endswith("going on with optim.chunk_size=16")
    plans = [make_plan(Case(64, chunk).config(two_b, small=False)) for chunk in (64, 32, 16)]
    assert [plan.fits for plan in plans] == [False, False, True]


def test_the_document_is_up_to_date() -> None:
    document = (DOCS / "performance.md").read_text()
    assert fill(document, tables(MEASURED)) == document


def sections(folder: Path, *names: str) -> dict[str, Any]:
    main([str(folder / "gpu.json"), "--small", "--seconds", "3000", "--only", *names])
    found: dict[str, Any] = json.loads((folder / "gpu.json").read_text())["sections"]
    assert found.keys() == {"models", *names}
    for name, result in found.items():
        assert "error" not in result, (name, result["traceback"])
    return found


def test_a_step_is_exact(tmp_path: Path) -> None:
    found = sections(tmp_path, "float64")["float64"]
    assert found["worst"] < 1e-12 and found["graphs kept, against none"] == 0


@pytest.mark.engines
def test_rounding_and_4_bits(tmp_path: Path) -> None:
    found = sections(tmp_path, "exactness", "nf4")
    assert found["exactness"]["float32 within 1e-5"]
    bfloat16 = found["exactness"]["bfloat16"]
    rounding = bfloat16["plain, against float32"]["all"]
    assert bfloat16["cached, against float32"]["all"] < 1.1 * rounding
    assert found["nf4"]["cosine, nf4 and nf4, decoded"]["least"] > 0.999


@pytest.mark.engines
def test_speed_is_measured(tmp_path: Path) -> None:
    found = sections(
        tmp_path, "speed", "peer", "kernels", "encoding", "product", "speed 7b", "speed of others"
    )
    for name in ("speed", "speed of others", "speed 7b"):
        for row in found[name]["cases"]:
            assert row["pairs/s"] > 0 and row["planned GiB"] > 0
    assert found["peer"]["ours / theirs"] > 0
    plain = [row for row in found["peer"]["theirs"] if not row["case"]["autocast"]]
    for row in plain:  # but for dropout, it is the same step
        assert row["loss of the step"] == pytest.approx(row["ours"], rel=0.1)


@pytest.mark.engines
def test_programs_run(tmp_path: Path) -> None:
    found = sections(tmp_path, "programs", "memory full")
    assert found["programs"]["killed and resumed"]["equal"]
    assert found["programs"]["evaluation"]["against the cpu"]["gpu"]["least"] > 0.99999
    assert found["memory full"]["last step"]["step"] == 2


def test_a_section_that_fails_or_is_slow_does_not_stop_the_others(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.json", "0" * 40, seconds=60)

    def fails(found: dict[str, Any]) -> None:
        found["before"] = 1
        raise ValueError("a fault")

    report.section("fails", 60, fails)
    report.section("slow", 5, lambda found: time.sleep(60))
    report.section("works", 60, lambda found: found.update(fine=True))
    report.seconds = 0
    report.section("late", 60, lambda found: found.update(fine=True))
    written = json.loads((tmp_path / "gpu.json").read_text())
    found = written["sections"]
    assert found["fails"]["before"] == 1 and found["fails"]["error"] == "ValueError: a fault"
    assert found["slow"]["error"].startswith("TimeLimit") and found["slow"]["seconds"] < 30
    assert found["works"]["fine"]
    assert "no time was left" in found["late"]["error"]
    assert written["commit"] == "0" * 40 and written["versions"]["torch"]
