"""The rules of the filter on pairs that can be checked by eye, and what the study measures besides:
./launch.sh test tests/study/test_filter.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.demo import triples as demo_triples
from data_prep.demo.triples import triples
from eval.demo.filter import MarkedPairs
from eval.study.filter import __main__ as program
from eval.study.filter.rules import (
    BETAS,
    Rule,
    counted,
    embedded,
    look_at,
    not_known,
    rules,
    without_common_start,
)
from eval.study.negatives import choose
from tests.support.paths import ROOT
from unime.inputs.items import Item

# Two dogs, one of which is written twice, a hound (right too, by another name), a car.
NAMES = ["dog", "dog", "hound", "car"]
BATCH = MarkedPairs(
    [Item(f"Find: a photo of {n}") for n in ("the dog", "a dog", "a hound", "a car")],
    [Item(name) for name in NAMES],
    ["dog", "dog", "dog", "car"],
)
TEACHER = {"dog": [1, 0, 0], "hound": [0.95, 0.3122, 0], "car": [0, 0, 1]}
VECTORS = torch.nn.functional.normalize(torch.tensor([[1, 0.2], [1, 0], [1, 0.1], [0, 1.0]]), dim=1)


def teacher(texts: object) -> np.ndarray:
    return np.array([TEACHER[text] for text in texts])  # type: ignore[attr-defined]


def found() -> dict[tuple[str, float | None], list[int]]:
    seen = embedded(look_at(BATCH, teacher, 1 << 20), VECTORS, VECTORS)
    return {(rule.family, rule.value): counted(seen, rule).tolist() for rule in rules()}


def test_each_rule_sees_what_it_can() -> None:
    counts = found()
    pairs, false = 12, 6  # of 4 rows each with 3 others; three dogs, each with 2 others
    assert {tuple(four[:2]) for four in counts.values()} == {(pairs, false)}
    assert counts["exact duplicates", None][2:] == [2, 2]
    assert counts["known positives", None][2:] == [2, 2]  # no two queries are equal but to copies
    assert counts["teacher", 0.9][2:] == [6, 6]
    assert counts["teacher", 0.95][2:] == [2, 2]  # the hound is at .95 itself
    assert counts["near-duplicate pictures", 8][2:] == [0, 0]  # there are none to see
    assert counts["margin", -0.3][2:] == [6, 6]
    assert counts["margin", 0.3][2:] == [0, 0]
    assert counts["margin or known", 0.3][2:] == [2, 2]
    assert counts["margin or teacher", 0.3][2:] == [6, 6]


def test_what_is_left_of_the_truth_where_copies_and_known_positives_are_none() -> None:
    seen = not_known(look_at(BATCH, teacher, 1 << 20))
    assert (int(seen.others.sum()), int(seen.right.sum())) == (10, 4)
    assert not (seen.copies & seen.others).any()


def test_a_union_drops_what_its_parts_do_and_a_larger_beta_less() -> None:
    counts = found()
    for beta in BETAS:
        for name in ("margin or known", "margin or teacher", "margin or pictures"):
            assert (
                counts["margin", beta][2]
                <= counts[name, beta][2]
                <= counts["margin or any", beta][2]
            )
    dropped = [counts["margin", beta][2] for beta in BETAS]
    assert dropped == sorted(dropped, reverse=True)


def test_a_teacher_reads_queries_where_targets_say_nothing() -> None:
    batch = MarkedPairs(
        [Item("Find me: dog"), Item("Find me: hound"), Item("Find me: car")],
        [Item("x")] * 3,
        [*"aab"],
    )
    seen = look_at(batch, teacher, 1 << 20)
    assert (seen.teacher > 0.9).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    blind = MarkedPairs([Item("x")] * 3, [Item("y")] * 3, [*"abc"])
    assert look_at(blind, teacher, 1 << 20).teacher.max() == -1
    assert without_common_start(["Find: a dog", "Find: an ape"]) == ["a dog", "an ape"]


def test_hashes_compare_pictures_beside_equal_texts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(2)]
    paths = []
    for number, (content, size) in enumerate([(pixels[0], 64), (pixels[0], 96), (pixels[1], 64)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(content).resize((size, size), Image.Resampling.BICUBIC).save(paths[-1])
    batch = MarkedPairs([Item("q")] * 3, [Item(images=(path,)) for path in paths], [*"aab"])
    seen = look_at(batch, teacher, 1 << 20)
    assert (seen.bits <= 8).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_the_page_is_made_of_the_numbers(tmp_path: Path) -> None:
    results = [
        {"rows": rows, "moment": moment, "rule": rule.family, "value": rule.value, "pairs": 100,
         "false_negatives": 10, "dropped": 4, "right_to_drop": 3, "precision": 0.75, "recall": 0.3}
        for rows in program.TITLES
        for moment in ("before", "after")
        for rule in rules()
    ]  # fmt: skip
    facts = {
        "commit": "c",
        "hardware": "h",
        "batches": 2,
        "teacher": "t",
        "demo": "d",
        "results": results,
    }
    text = program.page(facts)
    assert "| margin, beta 0.1 | 4 | 0.750 | 0.300 | 4 | 0.750 | 0.300 |" in text
    assert "100 pairs, of which 10 are false negatives (10.00 %)" in text


def test_docs_results_filter_is_made_of_its_json(tmp_path: Path) -> None:
    path = ROOT / "docs/results/filter.json"
    found = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == program.page(found)
    pytest.importorskip("matplotlib")
    program.draw(found, tmp_path / path.name)  # each rule, however many
    drawn = (tmp_path / "filter.svg").read_text()
    assert all(row["rule"] in drawn for row in found["results"])


def test_kinds_of_negatives() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]])
    eligible = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
    assert choose("hard", similarity, eligible, 1).nonzero().tolist() == [[0, 2], [1, 2]]
    assert choose("easy", similarity, eligible, 1).nonzero().tolist() == [[0, 1], [1, 0]]
    assert choose("random", similarity, eligible, 2).sum(dim=1).tolist() == [2, 2]
    assert (choose("hard", similarity, eligible, 9) == eligible).all()


def test_a_triples_negative_is_a_siblings_and_never_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo_triples, "load_synonyms", lambda: {"feline": ["cat"]})
    pairs = [
        ("cat", "a small furry animal"),
        ("cat", "a small furry pet"),
        ("feline", "a small furry animal that purrs"),
        ("dog", "a furry animal that barks"),
        ("car", "a vehicle with an engine"),
    ]
    made = {(word, text): negative for word, text, negative in triples(pairs)}
    assert made["cat", "a small furry animal"] == "a furry animal that barks"
    assert made["dog", "a furry animal that barks"] == "a small furry animal that purrs"
    assert len(made) == len(pairs)
    assert isinstance(next(rules()), Rule)
