"""benchmarks/gpu with tiny models on this machine's CPU: every section runs.

python -m pytest tests/test_gpu_benchmark.py -m "engines or not engines"
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import Report, main


def sections(folder: Path, *names: str) -> dict[str, Any]:
    main([str(folder / "gpu.json"), "--small", "--seconds", "3000", "--only", *names])
    found: dict[str, Any] = json.loads((folder / "gpu.json").read_text())["sections"]
    assert found.keys() == {"models", *names}
    for name, result in found.items():
        assert "error" not in result, (name, result["traceback"])
    return found


def test_steps_are_exact(tmp_path: Path) -> None:
    found = sections(tmp_path, "exactness", "float64", "nf4")
    assert found["exactness"]["float32 within 1e-5"]
    assert found["float64"]["worst"] < 1e-6
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
    assert found["programs"]["evaluation"]["gpu and cpu"]["least"] > 0.99999
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
