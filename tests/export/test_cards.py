"""A model card's Python runs as it stands, and gives the vectors that were trained.

python -m pytest tests/export/test_cards.py
"""

from __future__ import annotations

import copy
import json

import pytest
import torch
import yaml
from PIL import Image

from stages import export
from tests.support.embedding import difference, embed
from tests.support.exported_runs import REPORT, python_of, train_small
from unime.config import InputConfig, Quantization
from unime.inputs.items import Item

BIRD = Item("Which bird is it?", ("bird.jpg",))


@pytest.fixture
def desk(tmp_path, monkeypatch, pictures):
    """Where someone runs the lines of a card: beside the model, and with a picture."""
    monkeypatch.chdir(tmp_path)
    Image.open(pictures[1]).resize((80, 60)).save("bird.jpg")
    return tmp_path


def run_lines(lines):
    named: dict = {}
    exec(compile(lines, "README.md", "exec"), named)  # noqa: S102 (it is what is tested)
    return named


def card_of(desk, base):
    """Of what was exported, which keeps the place of its base to itself."""
    for path in (desk / "out").rglob("*.*"):
        assert str(base).encode() not in path.read_bytes()
    return (desk / "out" / "README.md").read_text()


@pytest.mark.parametrize("words", [[], ["code=false"]], ids=["code", "no code"])
def test_the_lines_of_a_merged_model(words, desk, tiny_model):
    encoder = train_small(tiny_model("qwen2_vl"), desk / "run")
    export.main(["run", "out", *words])
    (lines,) = python_of(card_of(desk, tiny_model("qwen2_vl")))
    found = torch.as_tensor(run_lines(lines)["vectors"])
    right = embed(encoder, [Item("a red bird"), Item(images=("bird.jpg",)), BIRD])
    assert difference(found, right) < 1e-5


@pytest.mark.parametrize(
    "family, quantization, inputs",
    [
        ("qwen2_vl", "nf4", InputConfig(resolution="24x24", prompt="vlm2vec")),
        ("idefics3", "none", InputConfig()),
        ("llava_next", "nf4", InputConfig()),
    ],
)
def test_the_lines_of_an_adapter(family, quantization, inputs, desk, tiny_model):
    base, held = tiny_model(family), Quantization(quantization)
    encoder = train_small(base, desk / "run", inputs, quantization=held)
    export.main(["run", "out", "form=adapter"])
    card = card_of(desk, base)
    (desk / base.name).symlink_to(base)  # as the card says
    ours, peft = (run_lines(lines) for lines in python_of(card))
    right = embed(encoder, [Item("a red bird"), BIRD])
    assert difference(ours["vectors"], right) < 1e-5
    assert ours["encoder"].processor.inputs == encoder.processor.inputs
    assert difference(peft["vector"], right[1:]) < 1e-5
    assert "library_name: transformers" in card
    assert ("NF4" in card) is (quantization == "nf4")
    assert ("other programs must resize first" in card) is (inputs.resolution is not None)


@pytest.mark.parametrize(
    "mean_similarity, effective_rank, bad", [(0.999, 2.0, True), (0.1, 40.0, False)]
)
def test_a_collapsed_model_is_called_so(
    mean_similarity, effective_rank, bad, desk, tiny_model, capsys
):
    train_small(tiny_model("qwen2_vl"), desk / "run")
    healthy = {"learning_rate": 1e-3, "mean_similarity": 0.1, "effective_rank": 40.0}
    last = {"mean_similarity": mean_similarity, "effective_rank": effective_rank}
    rows = [
        {"step": 10, "distinct_items": 128.0} | healthy,
        {"step": 20, "distinct_items": 128.0} | healthy | last,
        {"step": 20, "validation/hit@1": 0.1},  # a line of its own
    ]
    (desk / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = {"steps": 20, "identity": {"global_batch_size": 64}}
    (desk / "run" / "finished.json").write_text(json.dumps(outcome))
    export.main(["run", "out"])
    said, card = capsys.readouterr().out, (desk / "out" / "README.md").read_text()
    assert ("warning: " in said and "collapsed" in said) is bad
    assert ("**Do not rely on it**" in card) is bad
    assert bool(yaml.safe_load((desk / "out/config.yaml").read_text())["signs_of_collapse"]) is bad


def test_what_a_report_remarks_on_stands_below_its_table(tmp_path):
    report = copy.deepcopy(REPORT)
    report["models"]["stage2"]["warnings"] = ["the order of ties decides 12 of 20 queries"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    table, remarks = export.read_report(str(tmp_path / "report.json"))
    assert remarks == ["stage2: the order of ties decides 12 of 20 queries"]
    assert table is not None and f"- {remarks[0]}" in table
