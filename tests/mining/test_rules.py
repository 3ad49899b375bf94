"""Every rule by its closed form, and what is known to be right.

./launch.sh test tests/mining/test_rules.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter

from unime.config import InputConfig, MiningConfig
from unime.errors import ConfigError
from unime.inputs.items import Item, Pair
from unime.mining.corpus import EQUAL, GIVEN, KNOWN, SHARED, Corpus
from unime.mining.near_duplicates import NearDuplicates
from unime.mining.rules import (
    AbsoluteMargin,
    FalseNegatives,
    Found,
    HighestScore,
    LowestScore,
    RankWindow,
    RelativeMargin,
    Rule,
    SecondModel,
    rules_of,
)

STAMPS = Path("/usr/share/tuxpaint/stamps")


def found(scores: Sequence[float], positive: float, ranks: Sequence[int] | None = None) -> Found:
    """One row's candidates 0, 1, 2, … with these scores."""
    count = len(scores)
    return Found(
        torch.tensor([0]),
        torch.tensor([0]),
        torch.tensor([0]),
        torch.tensor([[positive]]),
        torch.arange(count)[None],
        torch.tensor([list(scores)]),
        torch.tensor([list(ranks or range(count))]),
    )


# Halves of powers of two, so that sums are exact and a limit itself is met.
@pytest.mark.parametrize(
    ("rule", "positive", "dropped"),
    [
        (FalseNegatives(0.125), 0.5, [1, 0, 0, 0, 0]),  # above 0.625
        (FalseNegatives(-0.25), 0.5, [1, 1, 1, 0, 0]),  # above 0.25
        (AbsoluteMargin(0.0), 0.5, [1, 1, 0, 0, 0]),  # above 0.5
        (AbsoluteMargin(0.25), 0.5, [1, 1, 1, 0, 0]),  # above 0.25
        (RelativeMargin(0.5), 0.5, [1, 1, 1, 0, 0]),  # above 0.25
        (RelativeMargin(0.5), -0.25, [1, 1, 1, 1, 1]),  # above -0.375: 0.125 *below* it
        (RelativeMargin(0.0), -0.5, [1, 1, 1, 1, 0]),
        (HighestScore(0.5), 0.0, [1, 1, 0, 0, 0]),
        (LowestScore(0.25), 0.0, [0, 0, 0, 0, 1]),
        (RankWindow(1, 3), 0.0, [1, 0, 0, 1, 1]),
    ],
)  # fmt: skip
def test_closed_forms(rule: Rule, positive: float, dropped: list[int]) -> None:
    scores = [0.75, 0.5625, 0.5, 0.25, -0.5]
    if positive == -0.25:
        scores = [0.75, 0.5625, 0.5, 0.25, -0.25]
    assert rule(found(scores, positive))[0].int().tolist() == dropped


def test_the_window_counts_what_is_not_excluded() -> None:
    """Of five candidates the first two are known to be right: the third has rank 0."""
    rule = RankWindow(0, 2)
    assert rule(found([0.5] * 5, 0, [-1, -1, 0, 1, 2]))[0].tolist()[2:] == [False, False, True]


def test_the_settings_name_the_rules() -> None:
    assert [rule.name for rule in rules_of(MiningConfig(false_negative_margin=None))] == [
        "rank window"
    ]
    config = MiningConfig(
        absolute_margin=0.1, relative_margin=0.2, max_score=0.3, min_score=0.4, range_min=2
    )
    window, *others = rules_of(config)
    assert window == RankWindow(2, 100)
    assert others == [
        FalseNegatives(0.1), AbsoluteMargin(0.1), RelativeMargin(0.2), HighestScore(0.3),
        LowestScore(0.4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"range_max": 3}, "mining.range_max"),
        ({"range_min": 97}, "mining.range_max"),
        ({"probes": 3}, "mining.probes"),
        ({"search": "ivf", "lists": 2, "probes": 3}, "mining.probes"),
        ({"max_score": 1.5}, "mining.max_score"),
        ({"near_duplicates": 65}, "mining.near_duplicates"),
        ({"relative_margin": -0.1}, "mining.relative_margin"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        MiningConfig(**settings)  # type: ignore[arg-type]


def test_a_second_model_has_limits_of_its_own() -> None:
    queries = torch.tensor([[1.0, 0.0]])
    targets = torch.tensor([[0.5, 0.0], [0.75, 0.0], [0.25, 0.0], [0.5, 0.5]])
    candidates = found([0.0] * 4, 0.0)  # the first is the positive, of 0.5
    for limit, margin, dropped in (
        (0.5, None, [0, 1, 0, 0]), (None, -0.125, [1, 1, 0, 1]), (0.6, 0.125, [0, 1, 0, 0]),
        (None, None, [0, 0, 0, 0]),
    ):  # fmt: skip
        rule = SecondModel(queries, targets, limit, margin)
        assert rule(candidates)[0].int().tolist() == dropped


# What is known to be right


def excluded(corpus: Corpus, name: str) -> set[tuple[int, int]]:
    return {divmod(pair, len(corpus.targets)) for pair in corpus.excluded[name].tolist()}


def texts(*rows: tuple[str, str]) -> list[Pair]:
    return [Pair(Item(query), Item(target)) for query, target in rows]


def test_all_targets_of_equal_queries_are_right() -> None:
    corpus = Corpus.of(texts(("a", "1"), ("b", "2"), ("a", "3"), ("a", "1")))
    assert corpus.query_of.tolist() == [0, 1, 0, 0] and corpus.target_of.tolist() == [0, 1, 2, 0]
    assert corpus.row_of.tolist() == [0, 1, 2] and corpus.first_rows.tolist() == [0, 1]
    assert excluded(corpus, KNOWN) == {(0, 0), (0, 2), (1, 1)} and corpus.most_excluded == 2


def test_rows_are_read_both_ways() -> None:
    """b is right for a, so a is for b, where it can be found at all."""
    corpus = Corpus.of(texts(("a", "b"), ("b", "c"), ("d", "a")))
    b, a = 1, 2  # as query, and as target
    assert (b, a) in excluded(corpus, KNOWN) and (2, 0) not in excluded(corpus, KNOWN)


def test_queries_that_share_a_target_share_all() -> None:
    rows = texts(("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("c", "3"))
    corpus = Corpus.of(rows)
    assert excluded(corpus, SHARED) == {(0, 1), (1, 2), (2, 0)}  # and not a's with c's
    assert excluded(Corpus.of(rows, shared_targets=False), SHARED) == set()


def test_targets_of_a_known_answer_are_right() -> None:
    """Whichever row of an equal query names it; and what shows the same as one of them."""
    rows = texts(
        ("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"), ("d", "5"), ("e", "TWO"), ("f", "two")
    )
    named = ["cat", "cat", "dog", "", "", "cat", ""]
    pairs = [replace(pair, answer=answer) for pair, answer in zip(rows, named, strict=True)]
    corpus = Corpus.of(pairs)
    own = excluded(corpus, KNOWN)
    of = {name: {target for query, target in own if query == n} for n, name in enumerate("abcdef")}
    place = {item.text: number for number, item in enumerate(corpus.targets)}
    cats = {place["1"], place["2"], place["TWO"]}
    assert of == {"a": cats | {place["4"]}, "b": cats, "c": {place["3"]}, "d": {place["5"]},
                  "e": cats, "f": {place["two"]}}  # fmt: skip
    like_two = {(query, place["two"]) for query in (0, 1, 4)} | {(5, place["TWO"])}
    assert excluded(corpus, EQUAL) == like_two
    blind = Corpus.of(rows)
    assert excluded(blind, KNOWN) == {(0, 0), (0, 3), (1, 1), (2, 2), (3, 4), (4, 5), (5, 6)}
    assert corpus.most_excluded == 5


def test_what_shows_the_same_is_no_negative(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("copy", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    red, copy, blue = (Item(images=(str(tmp_path / f"{n}.png"),)) for n in ("a", "copy", "b"))
    rows = [
        Pair(replace(red, text="Find one like it."), blue),
        Pair(Item("x"), copy),  # the same picture as the first query's
        Pair(Item("A  cat"), Item("one")),
        Pair(Item("y"), Item("a Cat", instruction="Say:")),  # the same text as the third query
        Pair(Item("z"), Item("ONE ")),  # and as its target
    ]
    corpus = Corpus.of(rows)
    assert excluded(corpus, EQUAL) == {(0, 1), (2, 3), (2, 4), (4, 2)}
    same = Corpus.of([Pair(Item("q"), red), Pair(Item("r"), replace(copy, instruction="See"))])
    assert len(same.targets) == 1  # copies of one picture


def test_negatives_that_rows_have_are_not_mined_again() -> None:
    rows = texts(("a", "1"), ("b", "2"), ("c", "3"))
    rows[0] = replace(rows[0], negatives=(Item("3"), Item("not a target")))
    assert excluded(Corpus.of(rows), GIVEN) == {(0, 2)}


# Near-duplicates, of real pictures


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Tux Paint's stamps")
def test_other_sizes_and_formats_of_a_picture_are_near_duplicates(tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    paths = sorted(STAMPS.rglob("*.png"))[::40][:6]
    rows = []
    for number, path in enumerate(paths):
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        plain = Image.alpha_composite(white, picture).convert("RGB")
        small = plain.resize((plain.width * 2 // 3, plain.height * 2 // 3))
        small.filter(ImageFilter.GaussianBlur(0.5)).save(tmp_path / f"{number}.jpg", quality=70)
        rows.append(Pair(Item(f"a query {number}"), Item(images=(str(path),))))
        rows.append(
            Pair(Item(images=(str(path),)), Item(images=(str(tmp_path / f"{number}.jpg"),)))
        )
        rows.append(Pair(Item(f"text {number}"), Item(f"word {number}", (str(path),))))
    corpus = Corpus.of(rows)
    rule = NearDuplicates.of(corpus, 8, InputConfig().max_image_pixels)
    count = len(corpus.targets)
    queries, positives = corpus.query_of, corpus.target_of
    every = torch.arange(count).expand(len(rows), -1)
    zeros = torch.zeros(len(rows), count)
    dropped = rule(
        Found(torch.arange(len(rows)), queries, positives, zeros[:, :1], every, zeros, every)
    )
    for number in range(len(paths)):
        png, jpg, both = (int(positives[3 * number + part]) for part in range(3))
        assert dropped[3 * number].nonzero()[:, 0].tolist() == [png, jpg]  # like the positive
        assert dropped[3 * number + 1].nonzero()[:, 0].tolist() == [png, jpg]  # like both
        assert dropped[3 * number + 2].nonzero()[:, 0].tolist() == [both]  # another text
