"""benchmarks/gpu with tiny models on this machine's CPU, where every section runs; and what it
measured on a GPU, beside what the planner says today.

python -m pytest tests/benchmarks/test_gpu_benchmark.py -m "engines or not engines"
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import peer, speed, steps
from benchmarks.gpu.__main__ import Report, TimeLimit, end_programs, main, run, with_limit
from benchmarks.gpu.models import Material, write_qwen2_vl_2b
from benchmarks.gpu.steps import GIB, Case, Setting
from benchmarks.gpu.tables import speed as speed_table
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


def test_a_complete_section_is_not_replaced_by_a_failed_one() -> None:
    failed = {"error": "TimeLimit", "cases": [{"case": {"batch": 1}}]}
    with_failed = [*MEASURED, {"sections": {"speed": failed}}]
    assert tables(with_failed) == tables(MEASURED)


def test_what_failed_is_shown_where_there_is_nothing_else() -> None:
    complete = MEASURED[2]["sections"]["speed"]
    failed = {"error": "TimeLimit", "cases": complete["cases"][:1]}
    only_failed = {"sections": MEASURED[2]["sections"] | {"speed": failed}}
    without = [{"sections": {n: f for n, f in r["sections"].items() if n != "speed"}}
               for r in MEASURED[:2]]  # fmt: skip
    assert speed_table({"speed": {"cases": complete["cases"][:1]}}) in tables(
        [*without, only_failed]
    )


def test_all_sections_of_speed_are_in_the_table_and_what_found_no_memory() -> None:
    row = MEASURED[2]["sections"]["speed"]["cases"][0]
    full = {"case": row["case"] | {"batch": 77}, "out of memory": "tried to allocate"}
    eager = row | {"case": row["case"] | {"attention": "eager"}}
    sevens = row | {"case": row["case"] | {"batch": 16}}
    shown = speed_table(
        {
            "speed": {"cases": [row, full]},
            "speed of others": {"cases": [eager]},
            "speed 7b": {"cases": [sevens]},
        }
    )
    _, _, first, second, third, fourth = shown.splitlines()
    assert second.count("–") == 6 and "out of memory" in second and "77" in second
    assert "–" not in first + third + fourth
    assert "eager" in third and "7B" in fourth and fourth.startswith("| 16 |")


class Fake:
    """A setting without a model, which says in which order things were done."""

    small, device = True, torch.device("cpu")

    def __init__(self) -> None:
        self.done: list[str] = []

    def batch(self, encoder: Any, case: Case) -> Any:
        return SimpleNamespace(chunks=[[{}]], labels={})

    def step(self, encoder: Any, batch: Any) -> Any:
        self.done.append("our step")
        return SimpleNamespace(loss=torch.zeros(()))

    def load(self, case: Case) -> Any:
        weight = torch.nn.Parameter(torch.ones(1))
        return SimpleNamespace(
            trainable_named_parameters=lambda: [("weight", weight)], zero_grad=lambda: None
        )


def test_the_peers_peak_is_read_before_our_step(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, loss = Fake(), lambda features, labels: torch.ones((), requires_grad=True) * 2
    monkeypatch.setattr(peer, "peak", lambda _: setting.done.append("peak"))
    peer.time_peer(setting, setting.load(Case(4, 4)), Case(4, 4), loss)  # type: ignore[arg-type]
    assert setting.done == ["peak", "our step"]


def test_the_profile_has_the_optimizers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Fake()

    class Optimizer:
        def step(self) -> None:
            setting.done.append("optimizer")

        def zero_grad(self) -> None:
            pass

    monkeypatch.setattr(speed, "adamw", lambda encoder: Optimizer())
    assert speed.profiled(setting, Case(4, 4))["with the optimizer's step"]  # type: ignore[arg-type]
    assert setting.done == ["our step", "optimizer"] * 3  # two timed, one profiled


def test_kernels_are_compared_of_equal_batches() -> None:
    assert len({case.batch for case in speed.PROFILED}) == 1


@pytest.mark.parametrize(
    ("name", "gib", "planned", "peak"),
    [
        ("NVIDIA H200", 139.8, ["gpu=h200"], 989e12),
        ("NVIDIA GH200 480GB", 95, ["gpu=custom", "plan.gpu_memory_gib=95.0"], None),
        (None, 0, ["gpu=h100-80g"], None),
    ],
)
def test_the_plan_is_for_the_gpu_that_is_there(
    two_b: Material,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    gib: float,
    planned: list[str],
    peak: float | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    properties = SimpleNamespace(total_memory=gib * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    gpu, flops = steps.planned_gpu()
    assert set(planned) <= set(gpu) and flops == peak
    if name != "NVIDIA H200":
        return
    monkeypatch.setattr(speed, "measure", lambda *_: {"seconds": [1.0]})
    setting = Setting(two_b, SimpleNamespace(device=torch.device("cpu")), small=False)  # type: ignore[arg-type]
    row = speed.time_case(setting, None, Case(32, 16))  # type: ignore[arg-type]
    assert row["share of the peak"] == pytest.approx(row["TFLOP"] / 989)


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_programs_are_ended_where_there_is_no_time(tmp_path: Path) -> None:
    process = sleeper()
    with pytest.raises(TimeLimit):
        with_limit(5, lambda: end_programs(process, tmp_path / "none.json"))
    assert process.returncode is not None


def test_programs_are_ended_on_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = sleeper()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "start_programs", lambda *_: process)
    monkeypatch.setattr(program, "make_pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(Report(tmp_path / "gpu.json", "0" * 40, 60), tmp_path, True, ["programs"])
    assert process.returncode is not None
