"""Intervals over seeds and queries beside closed forms: ./launch.sh test
tests/study/test_compare.py"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from eval.bootstrap import Averaging, Draws, Estimate
from eval.report.averages import Average
from eval.study.compare import Reference, arms_of, difference, in_words, reached, short_keys
from eval.study.figures.bars import draw_differences
from eval.study.outcome import write_outcome
from eval.study.settings import StudyConfig
from eval.study.tables import differences_table, pairs_table
from tests.support.studies import FILES, row
from unime.errors import DataError

MEAN = Average("a", "mean of both", "micro", "image", ("Words_t2i", "Words_i2t"))


def over_seeds(
    values: Mapping[str, np.ndarray], average: Averaging, samples: int, seed: int
) -> Estimate:
    return Draws.of(values, samples, seed).estimate(average)


def alone(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return values["x"]


def half_width(ci95: list[float]) -> float:
    return (ci95[1] - ci95[0]) / 2


def test_one_seed_is_a_bootstrap_over_its_queries() -> None:
    values = np.array([[1.0] * 60 + [0.0] * 40])
    found = over_seeds({"x": values}, alone, 5_000, 0)
    assert found.value == pytest.approx(0.6) and found.seeds == [0.6]
    expected = norm.ppf(0.975) * np.sqrt(0.6 * 0.4 / 100)
    assert half_width(found.ci95) == pytest.approx(expected, rel=0.08)


def test_seeds_that_agree_leave_the_queries_alone() -> None:
    values = np.tile([1.0] * 60 + [0.0] * 40, (3, 1))
    found = over_seeds({"x": values}, alone, 5_000, 0)
    expected = norm.ppf(0.975) * np.sqrt(0.6 * 0.4 / 100)
    assert half_width(found.ci95) == pytest.approx(expected, rel=0.08)


def test_queries_that_agree_leave_the_seeds_which_are_students() -> None:
    """Values that depend on the seed alone: the interval of a mean of 8 numbers."""
    random = np.random.default_rng(3)
    seeds = random.normal(size=8)
    found = over_seeds({"x": np.tile(seeds[:, None], (1, 50))}, alone, 10_000, 0)
    expected = t.ppf(0.975, 7) * seeds.std(ddof=1) / np.sqrt(8)
    assert found.value == pytest.approx(seeds.mean())
    assert half_width(found.ci95) == pytest.approx(expected, rel=0.08)


def test_the_variance_of_both_is_their_sum() -> None:
    random = np.random.default_rng(4)
    seeds, queries = random.normal(size=(20, 1)), 5 * random.normal(size=(1, 400))
    found = over_seeds({"x": seeds + queries}, alone, 5_000, 0)
    parts = seeds.var(ddof=1) / 20, queries.var() / 400
    freedom = 19 * (sum(parts) / parts[0]) ** 2
    expected = t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    assert half_width(found.ci95) == pytest.approx(expected, rel=0.08)


def test_three_seeds_cover_as_often_as_they_say() -> None:
    """Where nothing differs 95 of 100 intervals hold 0, also where seeds differ as much as queries
    let a mean differ."""
    random = np.random.default_rng(5)
    held = 0
    for turn in range(200):
        seeds = 0.04 * random.normal(size=(3, 1))
        queries = random.choice([-1, 0, 1], size=(1, 100), p=[0.1, 0.8, 0.1])
        held += over_seeds({"x": seeds + queries}, alone, 300, turn).is_noise
    assert 0.9 <= held / 200 <= 0.995


def test_averages_of_tasks_are_of_the_same_seeds() -> None:
    """A seed that is better on one task and worse by as much on the other says nothing of both."""
    up = np.tile([[0.1], [-0.1], [0.0]], (1, 40))

    def both(values: Mapping[str, np.ndarray]) -> np.ndarray:
        return (values["x"] + values["y"]) / 2

    found = over_seeds({"x": up, "y": -up}, both, 2000, 0)
    assert found.ci95 == pytest.approx([0, 0], abs=1e-9)
    apart = over_seeds({"x": up, "y": up}, both, 2000, 0)
    assert half_width(apart.ci95) > 0.1


def test_the_same_numbers_twice() -> None:
    values = np.random.default_rng(0).random((3, 30))
    one, other = (over_seeds({"x": values}, alone, 500, 1) for _ in range(2))
    assert one == other


# Arms ------------------------------------------------------------------------------------------


def rows(tmp_path: Path) -> list[dict[str, object]]:
    (tmp_path / "suite.yaml").write_text(FILES["suite.yaml"])
    suite = str(tmp_path / "suite.yaml")
    found = []
    for seed in range(3):
        for recipe, k, right in (("unime", 8.0, 12), ("unime", "null", 11), ("plain", "null", 4)):
            hits = [1] * right + [0] * (16 - right)
            found.append(row(recipe, seed, {"Words_t2i": hits, "Words_i2t": hits}, suite=suite,
                             **{"grid/stage2.k": k}))  # fmt: skip
    return found


def test_arms_are_cells_that_differ_by_their_seed(tmp_path: Path) -> None:
    arms = arms_of([*rows(tmp_path), row("bad", 0, {}, status="failed")])
    assert [arm.name for arm in arms] == [
        "unime k=8", "unime k=null", "plain k=null"
    ]  # fmt: skip
    assert [arm.seeds for arm in arms] == [[0, 1, 2]] * 3


def test_settings_are_named_by_their_last_part_where_that_means_one() -> None:
    keys = ["stage1.optim.steps", "stage2.optim.steps", "stage2.loss.temperature", "data"]
    assert short_keys(keys) == {
        "stage1.optim.steps": "stage1.optim.steps", "stage2.optim.steps": "stage2.optim.steps",
        "stage2.loss.temperature": "temperature", "data": "data",
    }  # fmt: skip


def test_differences_are_paired_and_said_in_words(tmp_path: Path) -> None:
    arms = arms_of(rows(tmp_path))
    large = difference(arms[0], arms[2], MEAN)
    assert large is not None and large.value == pytest.approx(0.5) and not large.is_noise
    assert large.seeds == pytest.approx([0.5] * 3)
    assert in_words(large).startswith("+50.0 points (") and "noise" not in in_words(large)
    none = difference(arms[0], arms[0], MEAN)
    assert none is not None and "within noise" in in_words(none)
    assert "one seed" not in in_words(none) and "one seed" in in_words(replace(none, seeds=[0.0]))
    assert Reference("unime", {"stage2.k": None}).of(arms[0], arms) is arms[1]
    assert Reference("unime", {"stage2.k": None}).of(arms[1], arms) is None
    assert Reference("plain", {}).of(arms[1], arms) is arms[2]
    assert Reference(None, {"stage2.k": None}).of(arms[0], arms) is arms[1]
    assert Reference(None, {"stage2.k": None}).of(arms[2], arms) is None  # its own recipe's
    table = differences_table(rows(tmp_path), Reference("plain", {}))
    assert "| unime k=null | plain k=null | +43.8 points" in table


def test_every_pair_has_its_difference(tmp_path: Path) -> None:
    suite = str(tmp_path / "suite.yaml")
    late = row("late", 7, {"Words_t2i": [1], "Words_i2t": [1]}, suite=suite)
    lines = pairs_table([*rows(tmp_path), late])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()]
    assert cells[3] == ["2 unime k=null", "(-6.2)", "", ""]
    assert cells[4] == ["3 plain k=null", "-50.0", "-43.8", ""]
    assert cells[5] == ["4 late", "", "", ""]  # no seed in common with another


def test_no_share_is_below_none_or_above_all(tmp_path: Path) -> None:
    found = []
    for seed, hits in enumerate(([1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0])):
        found.append(row("wild", seed, {"Words_t2i": hits, "Words_i2t": hits}))
    assert reached(arms_of(found)[0], MEAN).ci95 == [0.0, 1.0]


def test_other_queries_are_not_compared(tmp_path: Path) -> None:
    found = arms_of([*rows(tmp_path)[:1], row("short", 0, {"Words_t2i": [1], "Words_i2t": [1]})])
    with pytest.raises(DataError, match="other queries of Words_t2i"):
        difference(found[0], found[1], MEAN)


def test_arms_without_a_seed_in_common_leave_the_rest(tmp_path: Path) -> None:
    """As when other seeds of each have failed: what there is is compared, drawn and listed."""
    found = rows(tmp_path)
    for one in found:
        if (one["recipe"] == "plain") == (one["seed"] == 0):
            one |= {"status": "failed", "reason": "error: no memory"}
    (tmp_path / "study").mkdir()
    study = StudyConfig(base="b", recipes=["plain", "unime"])
    write_outcome(tmp_path / "study", "study", study, found)
    told = (tmp_path / "study/comparison.md").read_text()
    assert "| unime k=null | plain k=null | no seed in common |  |" in told
    arms = json.loads((tmp_path / "study/comparison.json").read_text())["arms"]
    assert {d["in_words"] for d in arms["unime k=null"]["differences"].values()} == {
        "no seed in common"
    }
    only = [one for one in found if one["recipe"] == "plain" or one.get("grid/stage2.k") == "null"]
    assert draw_differences(only, Reference("plain", {}), tmp_path) == []
