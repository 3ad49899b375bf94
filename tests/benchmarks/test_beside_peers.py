"""./launch.sh bench: no time is given of sides that do different work, goals are kept to, and the
document has what was measured.

./launch.sh test tests/benchmarks/test_beside_peers.py -m "use or not use"
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import encoding
from benchmarks.cpu import tables
from benchmarks.cpu.frame import FirstStep, Goal, compare, interleaved
from benchmarks.cpu.material import duplicated, even, mixed
from benchmarks.cpu.steps import KEPT, NONE, STEP
from benchmarks.cpu.tables import MARK, content
from benchmarks.cpu.theirs import Peer, Theirs, export
from benchmarks.markdown import fill
from tests.support.paths import ROOT
from unime.errors import ConfigError, RunError

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
    least, most = Goal("speed", 1.3), Goal("memory", 2, at_most=True, unit=" GiB")
    assert (least.met(1.3), least.met(1.29), least.met(None)) == (True, False, False)
    assert (most.met(2.0), most.met(2.1), most.met(None)) == (True, False, False)
    assert (most.wanted, most.shown(1.5)) == ("≤ 2 GiB", "1.50 GiB")
    assert most.shown(None) == "not measured"


@pytest.mark.parametrize("count", [2, 3, 4, 6, 11])
def test_sides_take_turns_and_the_first_does_not_count(count: int) -> None:
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

    names = [str(number) for number in range(count)]
    found = interleaved([Noted(name) for name in names], repeat=4)
    turns = [taken[start : start + count] for start in range(0, len(taken), count)]
    assert len(turns) == 5 and all(sorted(turn) == sorted(names) for turn in turns)
    assert len(found["0"]["seconds"]["step, CPU"]) == 4
    follows = list(zip(taken, taken[1:], strict=False))
    assert all(len({before for before, one in follows if one == name}) > 1 for name in names)


def written(name: str, met: bool, small: bool = False) -> dict[str, Any]:
    """A result of a benchmark whose goals are all met or all missed."""
    figures = {
        goal.figure: {"measured": goal.limit * (1 if met else 2 if goal.at_most else 0.5)}
        for goal in bench.BENCHMARKS[name].goals
    }
    return {"name": name, "small": small, "figures": figures}


@pytest.mark.parametrize("words", [["all"], ["all", "--small"], ["--small", "all"]])
@pytest.mark.parametrize("met", [True, False])
def test_all_says_what_falls_short(
    met: bool, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small = "--small" in words

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert ("--small" in command) == small and "all" not in command
        result = written(command[3], met, small)
        (tmp_path / f"{command[3]}.json").write_text(json.dumps(result))
        return subprocess.CompletedProcess(command, 0 if met or small else 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert status_of([*words, "--output", str(tmp_path)]) == (0 if met or small else 1)
    told = capsys.readouterr().out
    goals = [goal for benchmark in bench.BENCHMARKS.values() for goal in benchmark.goals]
    assert all(f"| {goal.figure} | " in told for goal in goals)
    assert ("falls short" in told) is not (met or small)
    assert ("too small to say" in told) is small
    assert "failed" not in told


def test_all_takes_no_earlier_result_for_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in bench.BENCHMARKS:
        (tmp_path / f"{name}.json").write_text(json.dumps(written(name, met=True)))
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1)
    )
    assert status_of(["all", "--output", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "| met |" not in told
    assert all(f"{name}: failed" in told for name in bench.BENCHMARKS)


@dataclass(frozen=True)
class Given:
    """A benchmark that finds what it was given."""

    result: dict[str, Any]
    name: str = "flops"
    about: str = "nothing"
    goals: tuple[Goal, ...] = bench.BENCHMARKS["flops"].goals

    def measure(self, small: bool, repeat: int | None = None) -> dict[str, Any]:
        return self.result

    def shown(self, result: dict[str, Any]) -> str:
        return ""


@pytest.mark.parametrize(
    ("met", "small", "status"), [(True, False, 0), (False, False, 1), (False, True, 0)]
)
def test_one_exits_with_1_where_it_falls_short(
    met: bool, small: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.BENCHMARKS, "flops", Given(written("flops", met, small)))
    assert status_of(["flops", "--output", str(tmp_path)]) == status
    assert (tmp_path / "flops.json").is_file()


def status_of(words: list[str]) -> Any:
    try:
        bench.main(words)
    except SystemExit as error:
        return error.code
    return 0


@pytest.mark.parametrize("words", [["--small", "mining"], ["--repeat", "2", "gpu", "gpu.json"]])
def test_words_before_a_program_with_its_own_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="its own words after it"):
        bench.main(words)


def test_a_new_result_takes_the_place_of_its_earlier_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "content", lambda results: str([of["name"] for of in results]))
    (folder := tmp_path / "new").mkdir()
    document, kept = tmp_path / "document.md", tmp_path / "kept.json"
    document.write_text(f"<!-- {MARK}: begin -->\n<!-- {MARK}: end -->\n")
    words = [str(document), str(folder), str(kept)]
    earlier = [written(name, met=False) for name in ("step", "loss")]
    kept.write_text(json.dumps({"results": earlier}))
    new = written("mixed", met=True), written("loss", met=True)
    for result in new:
        (folder / f"{result['name']}.json").write_text(json.dumps(result))
    tables.main(words)
    assert json.loads(kept.read_text())["results"] == [earlier[0], *new]
    before = kept.read_text(), document.read_text()
    for wrong in (written("step", met=True, small=True), {"name": "step", "rows": {}}):
        (folder / "step.json").write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match=r"step\.json: got"):
            tables.main(words)
        assert (kept.read_text(), document.read_text()) == before


def test_goals_without_a_result_are_not_measured() -> None:
    told = content([])
    goals = [goal for benchmark in bench.BENCHMARKS.values() for goal in benchmark.goals]
    assert told.count("| not measured |") == len(goals)
    assert "falls short" not in told


def test_encoding_alone_leaves_the_result_of_bench_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoding, "measure", lambda *_: {"rows": {}})
    encoding.main([])
    (found,) = (tmp_path / "runs/bench").iterdir()
    assert found.stem not in bench.BENCHMARKS


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
    goals = {name: STEP.goal_of[name] for name in (NONE, KEPT)}
    result = replace(STEP, goal_of=goals, budgets=()).measure(small=True)
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
