"""What makes scores doubtful, in sentences.

./launch.sh test tests/eval/test_remarks.py
"""

from __future__ import annotations

from typing import Any

import pytest

from eval.remarks import against_chance, is_tied, warnings_of, warnings_of_report


def entry(score: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"score": score, "ci95": [low, high], "chance": 0.2, "num_queries": 300, **more}


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (entry(0.5, 0.45, 0.55), "above"),
        (entry(0.22, 0.18, 0.26), "at"),
        (entry(0.2, 0.2, 0.2), "at"),  # every query the same: ties
        (entry(0.05, 0.01, 0.1, chance=0.01, num_queries=100), "above"),  # one in 290 does so
        (entry(0.05, 0.009, 0.1, chance=0.01, num_queries=100), "at"),
        (entry(0.1, 0.07, 0.13), "below"),
        (entry(0.0, 0.0, 0.0), "below"),
        (entry(0.0, 0.0, 0.0, num_queries=5), "at"),  # a third of all random orders do so
        (entry(0.0, 0.0, 0.0, chance=0.001), "at"),
        (entry(0.4, 0.4, 0.4, num_queries=5), "at"),
        (entry(1.0, 1.0, 1.0, num_queries=5), "above"),
        (entry(1.0, 1.0, 1.0, chance=1.0), None),  # nothing else was possible
        (entry(0.1, 0.07, 0.13, chance=None), None),
        ({"score": None, "not_supported": "no videos"}, None),
    ],
)
def test_against_chance(found: dict[str, Any], level: str | None) -> None:
    assert against_chance(found) == level


def test_a_few_ties_are_not_worth_a_word() -> None:
    assert not is_tied(entry(0.5, 0.4, 0.6, tied_queries=0))
    assert not is_tied(entry(0.5, 0.4, 0.6, tied_queries=3))
    assert is_tied(entry(0.5, 0.4, 0.6, tied_queries=4))
    assert not is_tied({})


def test_of_a_good_model_nothing_is_said() -> None:
    good = entry(0.5, 0.4, 0.6, tied_queries=1, mean_similarity=0.9, effective_rank=30.0)
    assert warnings_of({"A": good | {"num_items": 64}, "B": {"score": None}}) == []
    assert warnings_of({}) == []


def test_tasks_are_counted_and_some_named() -> None:
    tasks = {f"T{number}": entry(0.01, 0.0, 0.02) for number in range(5)}
    (words,) = warnings_of(tasks | {"Good": entry(0.5, 0.4, 0.6)})
    assert "5 of 6 tasks" in words and words.count("T") == 3 and "2 more" in words
    (words,) = warnings_of({"T0": tasks["T0"]})
    assert "T0" in words and " of 1 " not in words


def test_a_report_names_the_model_where_it_has_several() -> None:
    bad = {"tasks": {"A": entry(0.1, 0.0, 0.15)}, "averages": {}}
    good = {"tasks": {"A": entry(0.5, 0.4, 0.6)}, "averages": {}}
    (alone,) = warnings_of_report({"models": {"m": bad}, "overall": "micro-1"})
    assert alone.startswith("below chance")
    both = {"models": {"m": bad, "n": good}, "overall": "micro-1"}
    assert warnings_of_report(both) == [f"m: {alone}"]
    assert warnings_of_report(both, "m") == [alone] and warnings_of_report(both, "n") == []
