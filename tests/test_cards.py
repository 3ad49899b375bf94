"""A model card's Python runs as it stands, and gives the vectors that were trained.

python -m pytest tests/test_cards.py
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from PIL import Image

from stages import export
from tests.embedding import difference, embed
from tests.exported_runs import python_of, train_small
from unime.config import InputConfig, Quantization
from unime.items import Item

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


@pytest.mark.parametrize("words", [[], ["code=false"]], ids=["code", "no code"])
def test_the_lines_of_a_merged_model(words, desk, tiny_model):
    encoder = train_small(tiny_model("qwen2_vl"), desk / "run")
    export.main(["run", "out", *words])
    (lines,) = python_of((desk / "out" / "README.md").read_text())
    found = torch.as_tensor(run_lines(lines)["vectors"])
    right = embed(encoder, [Item("a red bird"), Item(images=("bird.jpg",)), BIRD])
    assert difference(found, right) < 1e-5


@pytest.mark.parametrize(
    "family, quantization, resolution",
    [("qwen2_vl", "nf4", "24x24"), ("idefics3", "none", "native"), ("llava_next", "nf4", "native")],
)
def test_the_lines_of_an_adapter(family, quantization, resolution, desk, tiny_model):
    encoder = train_small(
        tiny_model(family),
        desk / "run",
        InputConfig(resolution=resolution),
        quantization=Quantization(quantization),
    )
    export.main(["run", "out", "form=adapter"])
    card = (desk / "out" / "README.md").read_text()
    ours, peft = python_of(card)
    right = embed(encoder, [Item("a red bird"), BIRD])
    assert difference(run_lines(ours)["vectors"], right) < 1e-5
    assert difference(run_lines(peft)["vector"], right[1:]) < 1e-5
    assert ("NF4" in card) is (quantization == "nf4")
    assert ("other programs must resize first" in card) is (resolution != "native")


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_card_keeps_places_to_itself(form, desk, tiny_model):
    train_small(tiny_model("qwen2_vl"), desk / "run")
    export.main(["run", "out", f"form={form}"])
    for name in ("README.md", "config.yaml"):
        assert "/" + str(tiny_model("qwen2_vl")).strip("/") not in (desk / "out" / name).read_text()


@pytest.mark.parametrize(
    "mean_similarity, effective_rank, bad", [(0.999, 2.0, True), (0.1, 40.0, False)]
)
def test_a_collapsed_model_is_called_so(
    mean_similarity, effective_rank, bad, desk, tiny_model, capsys
):
    train_small(tiny_model("qwen2_vl"), desk / "run")
    metrics = {"mean_similarity": mean_similarity, "effective_rank": effective_rank}
    outcome = {"metrics": metrics, "identity": {"global_batch_size": 64}}
    (desk / "run" / "finished.json").write_text(json.dumps(outcome))
    export.main(["run", "out"])
    said, card = capsys.readouterr().out, (desk / "out" / "README.md").read_text()
    assert ("warning: " in said and "collapsed" in said) is bad
    assert ("**Do not rely on it**" in card) is bad
    assert bool(yaml.safe_load((desk / "out/config.yaml").read_text())["signs_of_collapse"]) is bad
