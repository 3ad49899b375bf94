"""Each kind of fault is found once, at its place, and nothing else is; what is accepted is what
training uses.

./launch.sh test tests/data/checks/test_faults.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.miniatures.mmeb import train_rows, write_rows
from stages import check as program
from tests.data.checks.conftest import LONGEST, Made, check, data_of, found_in
from tests.support.tiny.models import FAMILIES
from unime.backbones.image_tokens import IMAGE_TOKENS
from unime.data.checks.faults import Fault
from unime.data.datasets import PairDataset
from unime.inputs.items import Item, Pair
from unime.losses.negatives import negatives_of
from unime.models.item_processor import ItemProcessor
from unime.training.chunks import ChunkLimits
from unime.training.collator import PairCollator

Change = Callable[[Made, Pair], Pair]


def with_picture(save: Callable[[Path], object], name: str = "bad.png") -> Change:
    """The row's picture is one that `save` writes."""

    def change(made: Made, pair: Pair) -> Pair:
        save(made.pictures / name)
        return replace(pair, target=Item(images=(name,)))

    return change


def cut(path: Path) -> None:
    picture = Image.effect_noise((60, 60), 90)
    picture.save(path)
    path.write_bytes(path.read_bytes()[:1500])


def named(name: str) -> Change:
    return lambda made, pair: replace(pair, target=Item(images=(name,)))


def asked(text: str, *names: str) -> Change:
    return lambda made, pair: replace(pair, query=replace(pair.query, text=text, images=names))


PICTURE = "target.images[0]"
REJECTED = {
    "row without a name": (lambda made, pair: replace(pair, row_id=" "), "row_id", "schema"),
    "empty query": (asked(""), "query.text, query.images", "empty side"),
    "empty negative": (
        lambda made, pair: replace(pair, negatives=(Item("no"), Item())),
        "negatives[1].text, negatives[1].images", "empty side",
    ),
    "no such picture": (named("lost.png"), PICTURE, "missing picture"),
    "outside": (named("../set/set.json"), PICTURE, "missing picture"),
    "no picture": (with_picture(lambda path: path.write_text("text")), PICTURE,
                   "unreadable picture"),
    "cut": (with_picture(cut), PICTURE, "truncated picture"),
    "large": (with_picture(Image.new("RGB", (501, 500)).save), PICTURE, "oversized picture"),
    "a strip": (with_picture(Image.new("RGB", (2000, 5)).save), "target",
                "refused by the processor"),
    "long": (asked("cat " * LONGEST), "query", "too long"),
    "a long negative": (
        lambda made, pair: replace(pair, negatives=(Item("no"), Item("dog " * LONGEST))),
        "negatives[1]", "too long",
    ),
}  # fmt: skip
REMARKS = {
    "token alone": (asked("<image> a cat"), "query.text", "image token without picture"),
    "token in a text": (
        lambda made, pair: replace(pair, target=replace(pair.target, text="<|image_pad|> it")),
        "target.text", "image token in a text",
    ),
    "turn's end": (asked("a cat<|im_end|>"), "query.text", "control token in a text"),
    "in a negative": (
        lambda made, pair: replace(pair, negatives=(Item("no"), Item("<|vision_start|> it"))),
        "negatives[1].text", "control token in a text",
    ),
    "in an instruction": (
        lambda made, pair: replace(pair, query=replace(pair.query, instruction="Find <|im_end|>")),
        "query.instruction", "control token in a text",
    ),
    "same pair": (lambda made, pair: replace(made.pairs[1], row_id="again"), "", "duplicate pair"),
}  # fmt: skip


def changed(made: Made, change: Change, row: int = 3) -> Path:
    made.pairs[row] = change(made, made.pairs[row])
    return made.write()


@pytest.mark.parametrize("fault", [*REJECTED, *REMARKS])
def test_one_fault_is_found_and_nothing_else(
    made: Made, fault: str, processor: ItemProcessor
) -> None:
    change, column, kind = (REJECTED | REMARKS)[fault]
    root = changed(made, change)
    report = check(root, processor)
    assert found_in(report) == [("train-00000-of-00001.parquet, row 3", column, kind)]
    (found,) = report.tasks[0].faults
    assert found.rejected == (fault in REJECTED) and report.is_clean != found.rejected
    used = PairDataset.load(data_of(root), 0, processor)
    assert (report.rows, report.accepted, len(used)) == (6, len(used), 6 - found.rejected)
    assert used.dropped == [found.message] * found.rejected
    report.write(made.root / "check")
    (line,) = (made.root / "check" / "rows.jsonl").read_text().splitlines()
    written = json.loads(line)
    assert written["column"] == column and written["reason"] in found.message
    assert written["row_id"] == made.pairs[3].row_id


def test_a_clean_set_is_clean(made: Made, processor: ItemProcessor) -> None:
    for reader in (None, processor):
        report = check(made.write(), reader)
        assert report.is_clean and found_in(report) == []
        assert sum(count for _, count in report.sides.bars()) == 6
        assert sum(count for _, count in report.lengths.bars()) == 12


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (lambda table: table.drop_columns("target"), "schema"),
        (lambda table: table.set_column(2, "query", pa.array(["a cat"] * 6)), "schema"),
    ],
)
def test_a_table_of_another_form(made: Made, form: Callable[..., pa.Table], kind: str) -> None:
    path = made.write() / "pets" / "train-00000-of-00001.parquet"
    pq.write_table(form(pq.read_table(path)), path)
    report = check(made.root)
    assert {fault.kind for fault in report.tasks[0].faults} == {kind} and not report.is_clean
    assert all(str(path) in fault.message for fault in report.tasks[0].faults)


MMEB = {
    "token alone": ({"pos_text": "<|image_1|>\nan answer"}, "pos_text",
                    "image token without picture"),
    "picture alone": ({"qry": "no token\n"}, "qry", "picture without image token"),
    "another token": ({"qry": "<|image_1|>\nabout <image>\n"}, "qry", "image token in a text"),
    "negative": ({"neg_text": ["<|image_1|>\nno", "no"]}, "neg_text[0]",
                 "image token without picture"),
    "empty": ({"pos_text": ""}, "pos_text, pos_image_path", "empty side"),
    "lost": ({"qry_image_path": "images/lost.png"}, "qry_image_path", "missing picture"),
    "long": ({"pos_text": "cat " * LONGEST}, "pos_text, pos_image_path", "too long"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MMEB)
def test_rows_of_mmeb(tmp_path: Path, fault: str, processor: ItemProcessor) -> None:
    values, column, kind = MMEB[fault]
    rows = [row | {"neg_text": [], "neg_image_path": []} for row in train_rows(tmp_path, "pets", 4)]
    rows[2] |= values
    write_rows(tmp_path, "pets", "original", rows)
    report = check(tmp_path, processor)
    assert found_in(report) == [("original-00000-of-00001.parquet, row 2", column, kind)]
    assert report.tasks[0].faults[0].row_id == "pets:2"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_token_of_a_family_is_known(family: str, tiny_model: Callable[..., Path]) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model(family))
    assert IMAGE_TOKENS.fullmatch(processor.image_token)


def test_several_right_answers_are_nobodys_negatives(made: Made, processor: ItemProcessor) -> None:
    """Counted, and in training neither is the other's negative."""
    made.pairs[4] = replace(made.pairs[4], query=made.pairs[1].query)
    root = made.write()
    report = check(root, processor)
    assert found_in(report) == []
    assert (report.tasks[0].queries, report.tasks[0].with_several) == (5, 1)
    rows = list(PairDataset.load(data_of(root), 0, processor))
    labels = PairCollator(processor, ChunkLimits(2, 2))(rows).labels
    wrong = negatives_of(labels["query_key"], labels["target_key"], labels["target_key"])
    kept = {(q, t) for q in range(6) for t in range(6) if not wrong[q, t]}
    assert kept == {(n, n) for n in range(6)} | {(1, 4), (4, 1)}


def test_queries_of_a_named_answer_have_its_targets(made: Made, processor: ItemProcessor) -> None:
    """Of six rows three name one answer, and one another, of which there is one target."""
    names = ["cat", "", "cat", "dog", "", "cat"]
    made.pairs = [replace(p, answer=a) for p, a in zip(made.pairs, names, strict=True)]
    report = check(made.write(), processor)
    assert (report.tasks[0].queries, report.tasks[0].with_several) == (6, 3)


def test_the_program(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    root = made.write()
    program.main([str(root), "check.num_workers=0"])
    assert "6 of 6 rows can be used, 0 are not" in capsys.readouterr().out
    changed(made, named("lost.png"))
    with pytest.raises(SystemExit) as ended:
        program.main([str(root), "check.num_workers=0"])
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "5 of 6 rows can be used, 1 are not" in said
    counts = json.loads((root / "check" / "check.json").read_text())
    assert counts["tasks"][0]["kinds"] == {"missing picture": 1}
    page = (root / "check" / "check.html").read_text()
    assert "lost.png" in page  # and what was found stands before all numbers, not beyond the edge
    assert page.index(">1 missing picture<") < page.index('data-column="rows"')


def test_the_program_on_a_configuration(
    made: Made, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the model's own processor and settings: what it refuses is rejected."""
    root = changed(made, with_picture(Image.new("RGB", (2000, 5)).save))
    config = made.root.parent / "stage2.yaml"
    config.write_text(
        f"run: {{output_dir: {made.root.parent}/run}}\nmodel: {{name: {tiny_model('qwen2_vl')}}}\n"
        f"data: {{root: {root}, sources: {{pets: {{}}}}}}\n"
        "optim: {steps: 1, batch_size_per_device: 2, chunk_size: 2, learning_rate: 0.1}\n"
    )
    with pytest.raises(SystemExit):
        program.main([str(config)])
    counts = json.loads((made.root.parent / "run" / "check" / "check.json").read_text())
    assert counts["tasks"][0]["kinds"] == {"refused by the processor": 1}
    assert "tokens of an item" in capsys.readouterr().out
    program.main([str(config), "inputs.resolution=56x56", f"check.output_dir={root}/other"])
    assert json.loads((root / "other" / "check.json").read_text())["accepted"] == 6


def test_a_set_is_checked_by_a_configuration_s_inputs(
    made: Made, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """What its resolution makes good is not refused, and what it makes bad is."""
    root = changed(made, with_picture(Image.new("RGB", (2000, 5)).save))
    config = tmp_path / "tune.yaml"

    def accepted(*words: str, inputs: str = "{}") -> int:
        config.write_text(
            f"run: {{output_dir: {tmp_path}/run}}\nmodel: {{name: {tiny_model('qwen2_vl')}}}\n"
            f"inputs: {inputs}\ndata: {{root: elsewhere, sources: {{other: {{}}}}}}\n"
            "optim: {steps: 1, batch_size_per_device: 2, chunk_size: 2, learning_rate: 0.1}\n"
        )
        with suppress(SystemExit):
            program.main([str(root), "check.num_workers=0", *words])
        return int(json.loads((root / "check" / "check.json").read_text())["accepted"])

    model = f"model={config}"
    assert accepted(model) == 5 and accepted(f"model={tiny_model('qwen2_vl')}") == 5
    assert accepted(model, inputs="{resolution: 56x56}") == 6
    assert accepted(model, "inputs.resolution=native", inputs="{resolution: 56x56}") == 5
    small = "max_image_pixels: 10000"  # those of the strip
    assert accepted(model, inputs=f"{{resolution: 56x56, {small}}}") < 5
    assert accepted() == 6 and accepted("inputs.max_image_pixels=10000") < 5


def test_a_reason_is_the_message_without_the_place() -> None:
    fault = Fault(0, "a, row 1", "", "schema", "x", "a, row 1, column 'x': got 1")
    assert fault.reason == "column 'x': got 1"
