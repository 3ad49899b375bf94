"""What makes the scores of a model doubtful, in sentences: one text for log, report, page and card.

A number that is wrong looks like any other: a collapsed model, scores that a random order reaches,
and scores that hang on the order of equals are told in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from math import sqrt
from typing import Any

from unime.collapse import collapsed

TIED_SHARE = 0.01  # of a task's queries that a tie decides, above which it is worth a word
NAMED = 3  # tasks in a sentence
TIED = "different candidates have exactly equal scores, which count as in random order"
ROUNDING = 1e-9  # of means
REACH = 1.96  # standard deviations, 95 % of a random order's scores
Entry = Mapping[str, Any]  # a task's result, or what a report has of it

Report = dict[str, Any]
NONE = "–"  # what a model cannot do


def warnings_of(tasks: Mapping[str, Entry]) -> list[str]:
    """What there is to say about one model's tasks, a sentence each; none: nothing.

    Args:
        tasks: by name the results of an evaluation (``<task>.json``), or a report's
            ``models[name]["tasks"]``.
    """
    done = {name: entry for name, entry in tasks.items() if entry.get("score") is not None}
    found = {name: _collapse(entry) for name, entry in done.items()}
    words = {name: said for name, said in found.items() if said is not None}
    levels = {name: against_chance(entry) for name, entry in done.items()}
    below = {name: _beside_chance(done[name]) for name in done if levels[name] == "below"}
    at = {name: _beside_chance(done[name]) for name in done if levels[name] == "at"}
    tied = {
        name: f"{entry['tied_queries']} of {entry['num_queries']} queries"
        for name, entry in done.items()
        if is_tied(entry)
    }
    sentences = (
        ("below chance", below, "; a random order does better"),
        ("not above chance", at, ""),
        ("tied scores", tied, f"; {TIED}"),
    )
    return [
        *([f"{next(iter(words.values()))}{_where(words, done)}"] if words else []),
        *(f"{what}{_each(of, done)}{more}" for what, of, more in sentences if of),
    ]


def warnings_of_report(report: Mapping[str, Any], model: str | None = None) -> list[str]:
    """The sentences about the models of a report (report.json), each with the model's name in front
    if it has several.

    Args:
        model: only those about this one, without its name; None: about all.
    """
    models: Mapping[str, Any] = report["models"]
    if model is not None:
        found = models[model]
        overall = report.get("overall", "")
        average = found.get("averages", {}).get(overall) or {}
        entry = {"num_queries": _num_queries(found["tasks"].values()), **average}
        said = warnings_of(found["tasks"])
        level = against_chance(entry)
        if len(found["tasks"]) > 1 and level in ("below", "at"):
            is_at = "below chance" if level == "below" else "not above chance"
            said.append(f"the average {overall} is {is_at}: {_beside_chance(entry)}")
        return said
    return [
        sentence if len(models) == 1 else f"{name}: {sentence}"
        for name in models
        for sentence in warnings_of_report(report, name)
    ]


def against_chance(entry: Entry) -> str | None:
    """Whether a score is "above" what a random order has, "at" it, or "below"; None: nobody knows.

    Its 95 % interval decides, and where that is wider what a random order of so many queries
    reaches (with half a query more, as a normal approximation of few hits needs): the interval of
    few queries is too narrow, and none at all where every one is wrong.
    """
    score, chance, count = (entry.get(key) for key in ("score", "chance", "num_queries"))
    if score is None or chance is None or not count or chance >= 1:
        return None
    low, high = entry.get("ci95") or (score, score)
    reach = REACH * sqrt(chance * (1 - chance) / count) + 0.5 / count
    if max(high, score + reach) < chance:
        return "below"
    is_at = low < chance - ROUNDING or score - reach <= chance  # where it begins at chance: above
    return "at" if is_at else "above"


def is_tied(entry: Entry) -> bool:
    """Whether ties of different candidates decide more than a few of a task's queries."""
    tied, count = entry.get("tied_queries"), entry.get("num_queries")
    return bool(tied) and bool(count) and tied > TIED_SHARE * count  # type: ignore[operator]


def _collapse(entry: Entry) -> str | None:
    signs = [entry.get(key) for key in ("mean_similarity", "effective_rank", "num_items")]
    return None if None in signs else collapsed(*signs)  # type: ignore[arg-type]


def _num_queries(tasks: Iterable[Entry]) -> int:
    return sum(entry.get("num_queries") or 0 for entry in tasks)


def _beside_chance(entry: Entry) -> str:
    return f"{entry['score']:.1%} (chance {entry['chance']:.1%})"


def _where(found: Mapping[str, str], done: Mapping[str, Entry]) -> str:
    """On how many of the tasks, and which."""
    if len(done) == 1:
        return ""
    if len(found) == len(done):
        return f", on all {len(done)} tasks"
    return f", on {len(found)} of {len(done)} tasks: {_named(list(found))}"


def _each(found: Mapping[str, str], done: Mapping[str, Entry]) -> str:
    """The same, with each one's own words."""
    named = _named([f"{name} {said}" for name, said in found.items()])
    return f": {named}" if len(done) == 1 else f" on {len(found)} of {len(done)} tasks: {named}"


def _named(words: list[str]) -> str:
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")


def notes(report: Report) -> list[str]:
    """What a reader of the table must know, a line each."""
    lines = []
    for setting, values in report["differing_settings"].items():
        each = ", ".join(f"{name} {said(value)}" for name, value in values.items())
        if setting == "pixel_budget":  # of many numbers
            each = "shown.pixel_budget of the results"
        lines.append(f"not strictly comparable: the models differ in {setting} ({each})")
    sizes = report["other_sizes"]
    if sizes:
        count = f"{len(sizes)} {'task' if len(sizes) == 1 else 'tasks'}"
        lines.append(
            f"not the benchmark's data, so not comparable with published rows: {sizes[0]}"
            f" ({count}; the JSON names them)"
        )
    for name, model in report["models"].items():
        reasons = [e["not_supported"] for e in model["tasks"].values() if e["score"] is None]
        if reasons:
            counts = f"{len(reasons)} of {len(model['tasks'])} tasks"
            lines.append(f"{name} cannot do {counts} ({NONE}): {reasons[0]}")
    entries = chain(*(model["averages"].values() for model in report["models"].values()))
    if any(entry.get("missing") for entry in entries):
        lines.append(f"{NONE} (n): no average, n of its tasks are missing; the JSON names them")
    return lines


def said(value: Any) -> str:
    """A setting in words: 0 and an empty text are values too."""
    return "none" if value is None else str(value) if value != "" else "''"
