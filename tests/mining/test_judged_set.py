"""`./launch.sh judge`: scores of targets and negatives, by cosines and by a model that is asked.

./launch.sh test tests/mining/test_judged_set.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from data_prep import judge
from data_prep.own.__main__ import main as prepare_own
from tests.mining.test_mined_set import rows_of
from tests.support.material import metrics, stage2
from unime.config import InputConfig, ModelConfig, Precision, Quantization
from unime.config.evaluation import STORE
from unime.data.prepared.folder import PreparedSet
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.mining.yes_no import question_of
from unime.models.encoder import Encoder

Judge = Callable[..., Path]
QUESTION = "Does it fit?"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen2_vl")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path, material: Path) -> Judge:
    """Judges the rows of the miniatures, as the program does."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "judge.yaml").write_text(
        f"model: {{name: {model}, quantization: none, precision: float32}}\nbatch_size: 16\n"
    )

    def call(name: str, *settings: str) -> Path:
        words = ["--config", str(folder / "judge.yaml"), f"data.root={material / 'mmeb'}"]
        judge.main([*words, f"output_dir={folder / name}", "data.tasks=[Captions]", *settings])
        return folder / name

    return call


@pytest.fixture(scope="module")
def asked(run: Judge) -> Path:
    return run("asked", "judge.kind=yes_no", f"judge.question={QUESTION}")


def test_cosines_of_an_embedding_model(run: Judge, model: Path, material: Path) -> None:
    found = rows_of(run("cosines"), "Captions")
    encoder = Encoder.load(
        ModelConfig(str(model), quantization=Quantization.none, precision=Precision.float32),
        InputConfig(),
    )
    before = rows_of(material / "mmeb", "Captions")
    for old, new in zip(before, found, strict=True):
        vectors = encoder.encode([old.query, old.target, *old.negatives])
        assert new.row_id == old.row_id and len(new.negatives) == len(old.negatives)
        expected = (vectors[1:] @ vectors[0]).tolist()
        assert new.scores == pytest.approx(expected, abs=1e-5)
    assert {len(pair.scores) for pair in found} == {1, 2}


def test_answers_of_the_whole_model(asked: Path, model: Path, material: Path) -> None:
    """p(Yes) against p(No) as transformers' own model has them, of query and candidate alone."""
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    plain = ModelConfig(str(model), quantization=Quantization.none, precision=Precision.float32)
    processor = Encoder.load(plain, InputConfig(prompt="chat")).processor
    yes, no = (
        processor.tokenizer(word, add_special_tokens=False)["input_ids"][0]
        for word in ("Yes", "No")
    )
    before, found = rows_of(material / "mmeb", "Captions"), rows_of(asked, "Captions")
    for old, new in list(zip(before, found, strict=True))[:4]:
        for candidate, score in zip((old.target, *old.negatives), new.scores, strict=True):
            sample = processor(question_of(old.query, candidate, QUESTION))
            with torch.no_grad():
                logits = whole(**processor.collate([sample])).logits[0, -1]
            expected = float(logits[[yes, no]].softmax(dim=0)[0])
            assert score == pytest.approx(expected, abs=1e-5)
    scores = [score for pair in found for score in pair.scores]
    assert len(set(scores)) > 4 and all(0 < score < 1 for score in scores)


def test_how_it_is_asked() -> None:
    query = Item("a red one", ("q.png",), instruction="Find it:")
    question = question_of(query, Item("", ("c.png", "d.png")), QUESTION)
    assert question.images == ("q.png", "c.png", "d.png")
    assert question.text.splitlines() == [
        QUESTION,
        "Query: Find it: [picture 1] a red one",
        "Candidate: [picture 2] [picture 3]",
    ]
    with pytest.raises(DataError, match="video"):
        question_of(query, Item(video=("f.png",)), QUESTION)


def test_what_rows_name_as_their_answer_goes_along(run: Judge, material: Path) -> None:
    judged = run("named", "data.answer_column=pos_image_path")
    assert [pair.answer for pair in rows_of(judged, "Captions")] == [
        f"images/Captions/{n}.png" for n in range(16)
    ]
    with pytest.raises(ConfigError, match=r"data\.answer_column: got 'row_id', expected null: the"):
        run("refused", f"data.root={judged}", "data.answer_column=row_id")


def test_answers_are_kept(run: Judge, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed again, nobody is asked again; asked otherwise, everything is, in another folder."""
    monkeypatch.setattr("unime.mining.yes_no.Encoder.load", lambda *_, **__: pytest.fail("loaded"))
    before = rows_of(asked, "Captions")
    run("asked", "judge.kind=yes_no", f"judge.question={QUESTION}")
    assert rows_of(asked, "Captions") == before
    with pytest.raises(ConfigError, match="judge.question"):
        run("asked", "judge.kind=yes_no", "judge.question=Is it so?")
    store = f"store={asked / STORE}"
    with pytest.raises(pytest.fail.Exception):
        run("otherwise", store, "judge.kind=yes_no", "judge.question=Is it so?")


def test_false_negatives_are_left_out(run: Judge, asked: Path) -> None:
    words = ("judge.kind=yes_no", f"judge.question={QUESTION}")
    store = f"store={asked / STORE}"
    strict = run("strict", *words, store, "judge.false_negative_margin=0")
    kept, everything = rows_of(strict, "Captions"), rows_of(asked, "Captions")
    left_out = 0
    for few, all_of_them in zip(kept, everything, strict=True):
        own = [score <= all_of_them.scores[0] for score in all_of_them.scores[1:]]
        left_out += own.count(False)
        assert len(few.negatives) == sum(own) == len(few.scores) - 1
    told = PreparedSet.of(strict)
    assert told is not None and left_out > 0
    assert told.source["judged"]["tasks"]["Captions"]["left_out"] == left_out


def test_stage2_trains_with_it(asked: Path, material: Path) -> None:
    words = (f"data.root={asked}", "data.sources={Captions: {}}", "loss.soft_labels=1")
    lines = metrics(stage2(material, "by-a-judge", *words, "optim.steps=2"))
    assert all(line["loss"] == pytest.approx(line["soft_label_loss"]) for line in lines)
    assert lines[0]["loss"] > 0


def test_rows_without_negatives_are_not_judged_in_silence(
    run: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"query": f"word {n}", "target": f"meaning {n}"} for n in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    prepare_own([str(file), str(tmp_path / "set"), "held_out=0"])
    with pytest.raises(DataError, match="no row has negatives.*launch.sh mine"):
        run("alone", f"data.root={tmp_path / 'set'}", "data.tasks=null")
    assert "no row has negatives" in capsys.readouterr().out
    assert not (tmp_path / "alone/set.json").exists()


def test_what_is_refused(run: Judge, material: Path) -> None:
    with pytest.raises(ConfigError, match="begin with one token"):
        run("alike", "judge.kind=yes_no", "judge.no=Yes")
    with pytest.raises(ConfigError, match="another prepared set"):
        mined = material / "other-set"
        mined.mkdir()
        PreparedSet("", {}, {"own": 1}).write(mined)
        run("x", f"output_dir={mined}")
