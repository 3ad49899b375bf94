"""./launch.sh bench: no time is given of sides that do different work, goals are kept to, and the
document has what was measured.

./launch.sh test tests/benchmarks/test_beside_peers.py -m "use or not use"
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks.cpu.frame import FirstStep, Goal, compare, interleaved
from benchmarks.cpu.material import duplicated, even, mixed
from benchmarks.cpu.steps import KEPT, NONE, STEP
from benchmarks.cpu.tables import MARK, content
from benchmarks.cpu.theirs import Peer, Theirs, export
from benchmarks.markdown import fill
from tests.support.paths import ROOT
from unime.errors import RunError

GRADIENT = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])}
FIRST = FirstStep(2.0, GRADIENT)


def test_equal_steps_are_as_far_apart_as_they_are() -> None:
    near = FirstStep(2.000004, {**GRADIENT, "a": torch.tensor([3.0, 4.00001])})
    found = compare(near, FIRST)
    assert found["loss apart"] == pytest.approx(2e-6)
    assert found["gradient apart"] == pytest.approx(1e-5 / 26**0.5, rel=0.1)


@pytest.mark.parametrize(
    "other",
    [
        FirstStep(2.0001, GRADIENT),
        FirstStep(2.0, {**GRADIENT, "b": torch.tensor([1.001])}),
        FirstStep(2.0, {"a": GRADIENT["a"]}),
        FirstStep(float("nan"), GRADIENT),
        FirstStep(2.0, {**GRADIENT, "b": torch.tensor([float("nan")])}),
    ],
)
def test_sides_that_differ_get_no_time(other: FirstStep) -> None:
    with pytest.raises(RunError, match="differ"):
        compare(other, FIRST)


def test_goals() -> None:
    least, most = Goal("speed", 1.3), Goal("memory", 2, at_most=True, unit=" GB")
    assert (least.met(1.3), least.met(1.29), least.met(None)) == (True, False, False)
    assert (most.met(2.0), most.met(2.1), most.met(None)) == (True, False, False)
    assert (most.wanted, most.shown(1.5), most.shown(None)) == ("≤ 2 GB", "1.50 GB", "not measured")


def test_sides_take_turns_and_the_first_does_not_count() -> None:
    taken: list[str] = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self) -> str:
            return self.name

        def step(self, prepared: str) -> None:
            taken.append(prepared)

        def first_step(self) -> FirstStep:
            return FIRST

    found = interleaved([Noted("one"), Noted("two")], repeat=2)
    assert taken == ["one", "two", "two", "one", "one", "two"]
    assert len(found["one"]["seconds"]["step, CPU"]) == 2


@pytest.mark.parametrize(("met", "status"), [(True, None), (False, 1)])
def test_all_says_what_falls_short(
    met: bool, status: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        figure = {"measured": 1.0, "shown": "1.00×", "goal": "≥ 1×", "met": met}
        result = {"name": command[3], "figures": {f"of {command[3]}": figure}}
        (tmp_path / f"{command[3]}.json").write_text(json.dumps(result))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    try:
        bench.main(["all", "--output", str(tmp_path)])
        ended = None
    except SystemExit as error:
        ended = error.code
    assert ended == status
    told = capsys.readouterr().out
    assert all(f"| of {name} | 1.00×" in told for name in bench.BENCHMARKS)
    assert ("falls short" in told) is not met


@pytest.mark.parametrize("make", [even, mixed, duplicated])
def test_material_is_whole_batches_of_distinct_queries(make: Any, tmp_path: Path) -> None:
    material = make(tmp_path, 16)
    assert len(material.rows) % 16 == 0
    assert len({row[:2] for row in material.rows}) >= len(material.rows) - 1
    for start in range(0, len(material.rows), 16):
        targets = {row[2:] for row in material.rows[start : start + 16]}
        assert (len(targets) < 16) == (make is duplicated and start < 32)
    assert all((tmp_path / path).is_file() for row in material.rows for path in row[1::2] if path)


def test_the_document_is_up_to_date() -> None:
    document = (ROOT / "docs/performance.md").read_text()
    results = json.loads((ROOT / "docs/results/bench.json").read_text())["results"]
    assert fill(document, content(results), MARK) == document


@pytest.mark.use
def test_both_sides_of_a_step_run(tmp_path: Path) -> None:
    goals = {name: STEP.goals[name] for name in (NONE, KEPT)}
    result = replace(STEP, goals=goals, budgets=()).measure(small=True)
    assert result["sides"].keys() == {NONE, KEPT, "sentence-transformers, mini_batch_size=8"}
    assert not result["missing"]
    assert {of["gradient apart"] < 1e-5 for of in result["first step"].values()} == {True}
    assert all(of["measured"] > 0 for of in result["figures"].values())
    assert "graphs kept" in STEP.shown(result)


@pytest.mark.use
def test_a_peer_with_other_weights_is_found_out(tmp_path: Path) -> None:
    material = even(tmp_path, 4)
    side = Theirs(Peer(material, export(material, tmp_path / "peer")), mini_batch_size=2)
    before = side.first_step()
    assert compare(side.first_step(), before)["gradient apart"] == 0
    name = next(name for name in side.peer.parameters if "lora_B" in name)
    with torch.no_grad():
        side.peer.parameters[name].add_(0.001)
    with pytest.raises(RunError, match="first steps differ"):
        compare(side.first_step(), before)
