"""Every row counts, and has to be one of several: pytest tests/data/test_survey.py"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.stand_in import fit, make_config, rows
from unime.data import survey as module
from unime.data.datasets import TextRow
from unime.data.survey import check_variety, survey
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair


def content(data: Sequence[Any]) -> str:
    return survey(data, {"all": len(data)}, 8).content


def test_order_number_and_content_count() -> None:
    data = rows()
    assert content(data) == content(rows())
    assert content(data) != content(data[::-1]) and content(data) != content(data[:-1])


@pytest.mark.parametrize("place", [0, 1, 301, 599])
def test_every_row_counts(place: int) -> None:
    """Of 600, where every second one did not."""
    texts = [TextRow(f"text {n}", torch.ones(2), f"f:{n}") for n in range(600)]
    pairs = [Pair(Item(f"q {n}"), Item(f"t {n}"), (Item(f"n {n}"),), f"T:{n}") for n in range(600)]
    before = content(texts), content(pairs)
    texts[place] = TextRow(f"text {place}", torch.tensor([1.0, 1.5]), f"f:{place}")
    assert content(texts) != before[0]
    for changed in ({"query": Item("x")}, {"target": Item("x")}, {"negatives": (Item("x"),)},
                    {"query": Item(f"q {place}", instruction="x")},
                    {"query": Item(f"q {place}", spacing=(" ", ""))}):  # fmt: skip
        other = {"query": pairs[place].query, "target": pairs[place].target,
                 "negatives": pairs[place].negatives, "row_id": f"T:{place}"} | changed  # fmt: skip
        assert content([*pairs[:place], Pair(**other), *pairs[place + 1 :]]) != before[1]


def test_answers_are_keys_of_their_task() -> None:
    """Equal for equal ones of one task, 0 where none is known; where none is at all there is no
    column, and the content is as before there were any."""
    named = ["cat", "", "dog", "cat", "cat", ""]
    plain = [Pair(Item(f"q {n}"), Item(f"t {n}"), (), f"T:{n}", task="AAAABB"[n]) for n in range(6)]
    pairs = [replace(pair, answer=answer) for pair, answer in zip(plain, named, strict=True)]
    found = survey(pairs, {"A": 4, "B": 2}, 8)
    assert found.answers is not None and found.answers.shape == (6, 3)
    keys = found.answers[:, 2].tolist()
    assert keys[0] == keys[3] and keys[1] == keys[5] == 0 and len({*keys}) == 4
    before = survey(plain, {"A": 4, "B": 2}, 8)
    assert before.answers is not None and (before.answers == found.answers[:, :2]).all()
    assert before.content != found.content
    together = survey(pairs, {"of all sources": 6}, 8).answers  # as batches of several tasks are
    assert together is not None and (together == found.answers).all()
    changed = [replace(pairs[0], answer="dog"), *pairs[1:]]
    assert survey(changed, {"A": 4, "B": 2}, 8).content != found.content


def test_pictures_drawn_anew_are_other_data(tmp_path: Path) -> None:
    """Small ones whole, wherever they lie and whenever they were written."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)

    def pairs(root: Path) -> list[Pair]:
        root.mkdir(exist_ok=True)
        for number, picture in enumerate(pixels):
            Image.fromarray(picture).save(root / f"{number}.png")
            os.utime(root / f"{number}.png", (0, 0))
        pictures = [Item("", (str(root / f"{number}.png"),)) for number in range(2)]
        return [Pair(Item("a cat"), pictures[0], (pictures[1],), "Captions:0")]

    before = content(pairs(tmp_path / "here"))
    assert content(pairs(tmp_path / "there")) == before
    for number in range(2):  # of the target, then of the negative
        pixels[number, 0, 0, 0] ^= 255
        assert content(pairs(tmp_path / "here")) != before
        pixels[number, 0, 0, 0] ^= 255
    assert content(pairs(tmp_path / "here")) == before


def test_large_pictures_count_by_size_and_three_pieces(tmp_path: Path) -> None:
    def of(picture: bytes) -> str:
        (tmp_path / "a.bmp").write_bytes(picture)
        return content([Pair(Item("q"), Item(images=(str(tmp_path / "a.bmp"),)), (), "T:0")])

    size = 10 * module.PIECE_SIZE
    before = of(bytes(size))
    for place in (0, size // 2, size - 1):
        changed = bytearray(size)
        changed[place] = 1
        assert of(bytes(changed)) != before
    assert of(bytes(size + 1)) != before and of(bytes(size)) == before


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.png: cannot read the image: No such file"):
        content([Pair(Item("q"), Item(images=(str(tmp_path / "gone.png"),)), (), "T:0")])


# Too few different things


def pairs_of(queries: int, targets: int, count: int = 12) -> list[Pair]:
    return [Pair(Item(f"q {n % queries}"), Item(f"t {n % targets}"), (), f"T:{n}")
            for n in range(count)]  # fmt: skip


@pytest.mark.parametrize(
    ("queries", "targets", "said"),
    [(12, 12, []), (8, 8, []), (12, 3, ["3 different targets for batches of 8"]),
     (2, 12, ["2 different queries for batches of 8"])],
)  # fmt: skip
def test_copies_are_told(queries: int, targets: int, said: list[str]) -> None:
    found = survey(pairs_of(queries, targets), {"T": 12}, 8)
    notes = check_variety(found, 8, {"queries": 2, "targets": 2})
    assert len(notes) == len(said) and all(a in b for a, b in zip(said, notes, strict=True))


@pytest.mark.parametrize(("queries", "targets"), [(1, 1), (12, 1), (1, 12)])
def test_rows_that_are_all_the_same_are_refused(queries: int, targets: int) -> None:
    """128 identical rows trained to loss 0 without a word."""
    data = pairs_of(12, 12) + pairs_of(queries, targets)
    found = survey(data, {"Good": 12, "T": 12}, 8)
    kind = "queries" if queries == 1 else "targets"
    with pytest.raises(DataError, match=rf"task 'T' has 1 different {kind}, expected at least 2"):
        check_variety(found, 8, {"queries": 2, "targets": 2})


def test_explicit_negatives_are_something_to_tell_apart() -> None:
    data = [Pair(Item(f"q {n}"), Item("t"), (Item("n"),), f"T:{n}") for n in range(12)]
    assert survey(data, {"T": 12}, 8).distinct["T"] == {"queries": 8, "targets": 2}


def test_a_run_says_so_before_its_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = [TextRow(f"text {n % 4}", row.teacher, row.row_id) for n, row in enumerate(rows())]
    fit(make_config(tmp_path / "few", steps=2), dataset=alike)
    said = capsys.readouterr().err
    assert said.index("4 different texts for batches of 8") < said.index("training from step 0")
    same = [TextRow("text", row.teacher, row.row_id) for row in rows()]
    with pytest.raises(DataError, match="has 1 different texts, expected at least 3"):
        fit(make_config(tmp_path / "one", steps=2), dataset=same)
    assert not (tmp_path / "one" / "metrics.jsonl").exists()


# Data that have changed


def changed_rows() -> list[TextRow]:
    data = rows()
    data[33] = TextRow("corrected", data[33].teacher, data[33].row_id)
    return data


@pytest.mark.parametrize("without_final", [False, True])
def test_a_finished_run_is_refused_other_data(tmp_path: Path, without_final: bool) -> None:
    config = make_config(tmp_path, steps=2)
    fit(config)
    if without_final:
        shutil.rmtree(tmp_path / "final")
    with pytest.raises(ConfigError, match=r"holds a run with other data \(content: \w+ -> \w+\)"):
        fit(config, dataset=changed_rows())
    assert not (tmp_path / "final").exists() or not without_final
    if not without_final:  # no step is left in which it could learn from them
        with pytest.raises(ConfigError, match="is finished; give another run.output_dir"):
            fit(make_config(tmp_path, steps=2, force=True), dataset=changed_rows())
        fit(config)


def test_final_is_made_again_from_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, steps=2)
    fit(config)
    path = tmp_path / "final" / "adapter.safetensors"
    before = path.read_bytes()
    shutil.rmtree(path.parent)
    capsys.readouterr()
    fit(config)
    assert path.read_bytes() == before
    said = capsys.readouterr().err
    assert "training from step 2 to 2" in said and "finished 2 steps" in said
