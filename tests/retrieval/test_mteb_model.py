"""mteb's scores of our models are those of our own ranking of the same data.

python -m pytest tests/retrieval/test_mteb_model.py -m evaluation
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stages import export
from tests.support.baselines import MINILM, vectors
from tests.support.embedding import difference, embed, exact_model
from tests.support.exported_runs import train_small
from tests.support.tiny.dual import build_clip
from unime.config import EncoderKind, EvalConfig, InputConfig
from unime.errors import DataError
from unime.inputs.items import Item
from unime.retrieval.ranking import rank_targets

mteb = pytest.importorskip("mteb")
pytestmark = pytest.mark.evaluation

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from unime.retrieval.mteb_model import MtebModel, batch_items  # noqa: E402

PROMPT = {"query": "Find the picture of this.", "document": "Say what it shows."}
PAIRS = [
    ("a cat on a chair", "the cat sits on a chair", 4.5),
    ("two red birds", "a dog in the garden", 0.5),
    ("the sea at night", "the sea, by night, without a moon", 4.0),
    ("a dog in the garden", "a cat in the garden", 2.5),
    ("a house", "a very small house on a hill over the sea", 3.0),
    ("a bird over the sea", "a bird", 3.5),
    ("one", "two and three and four", 1.0),
]
WORDS = [f"{many} things of {kind}" for many in ("some", "two", "ten") for kind in ("ice", "sand")]


def metadata(kind, name, category, modalities, main_score, prompt=None):
    return TaskMetadata(
        name=name,
        type=kind,
        category=category,
        modalities=modalities,
        main_score=main_score,
        prompt=prompt,
        description="Local data.",
        dataset={"path": "local", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )


class LocalSTS(AbsTaskSTS):
    metadata = metadata("STS", "LocalSTS", "t2t", ["text"], "cosine_spearman")

    def load_data(self, num_proc=None, **kwargs):
        columns = ("sentence1", "sentence2", "score")
        rows = [dict(zip(columns, pair, strict=True)) for pair in PAIRS]
        self.dataset = DatasetDict({"test": Dataset.from_list(rows)})
        self.data_loaded = True


def retrieval_task(name, category, queries, corpus, prompt=None):
    """A task that finds the item corpus[n] for the item queries[n]."""
    modalities = sorted({kind for item in (*queries, *corpus) for kind in item.kind.split("+")})
    described = metadata("Any2AnyRetrieval", name, category, modalities, "ndcg_at_10", prompt)

    class Local(AbsTaskRetrieval):
        metadata = described

        def load_data(self, num_proc=None, **kwargs):
            split = {
                "queries": rows_of("q", queries),
                "corpus": rows_of("d", corpus),
                "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(len(queries))},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Local()


def rows_of(letter, items):
    columns = {"id": [f"{letter}{n}" for n in range(len(items))]}
    if items[0].text:
        columns["text"] = [item.text for item in items]
    if items[0].images:
        columns["image"] = [Image.open(item.images[0]) for item in items]
    return Dataset.from_dict(columns)


def scores_of(model, task):
    result = mteb.evaluate(
        model, task, cache=None, encode_kwargs={"batch_size": 4}, show_progress_bar=False
    )
    return result.task_results[0].scores["test"][0]


def spearman(a, b):
    ranks = [values.argsort().argsort().double() for values in (a, b)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def check_ranking(scores, queries, targets):
    """Of our own ranking, where target n is right for query n."""
    ranked = rank_targets(queries, targets, depth=len(targets)).targets
    place = (ranked == torch.arange(len(queries))[:, None]).int().argmax(dim=1)
    for k in (1, 3, 5):
        recall = (place < k).double().mean().item()
        assert scores[f"recall_at_{k}"] == pytest.approx(recall, abs=1e-5)
    gains = [1 / math.log2(at + 2) if at < 10 else 0 for at in place.tolist()]
    assert scores["ndcg_at_10"] == pytest.approx(sum(gains) / len(gains), abs=1e-5)
    assert 0 < scores["ndcg_at_10"] < 1  # the ranking is no trivial one


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A run's encoder, and the folder of its adapters."""
    run = tmp_path_factory.mktemp("run")
    return train_small(tiny_model("qwen2_vl"), run), run / "final"


def config_of(name, **settings):
    return EvalConfig(model=exact_model(name), **settings)


def test_a_text_task(trained):
    encoder, folder = trained
    model = MtebModel.load(config_of(folder), device="cpu")
    scores = scores_of(model, LocalSTS())
    left, right = (embed(encoder, [Item(pair[side]) for pair in PAIRS]) for side in (0, 1))
    cosines = (left * right).sum(dim=1).double()
    wanted = torch.tensor([pair[2] for pair in PAIRS], dtype=torch.double)
    assert scores["cosine_spearman"] == pytest.approx(spearman(cosines, wanted), abs=1e-4)
    pearson = torch.corrcoef(torch.stack([cosines, wanted]))[0, 1].item()
    assert scores["cosine_pearson"] == pytest.approx(pearson, abs=1e-4)


@pytest.mark.parametrize("form", ["run", "export", "clip"])
def test_an_image_text_task(form, trained, photos, tmp_path):
    encoder, folder = trained
    if form == "clip":
        kind = EncoderKind.dual_encoder
        model = MtebModel.load(config_of(build_clip(tmp_path / "clip"), encoder=kind), "cpu")
    elif form == "export":
        export.main([str(folder.parent), str(tmp_path / "out")])
        model = MtebModel.load(config_of(tmp_path / "out"), "cpu")
    else:
        model = MtebModel.load(config_of(folder), "cpu")

    def ours(items):
        if form == "clip":
            return vectors(model.embedder, items)
        return embed(encoder, items)

    texts = [Item(words) for words in WORDS]
    images = [Item(images=(path,)) for path in photos]
    shown = photos[1:] + photos[:1]
    both = [Item(words, (path,)) for words, path in zip(WORDS, shown, strict=True)]
    for category, queries, targets in (
        ("t2i", texts, images),
        ("i2t", images, texts),
        ("it2i", both, images),
    ):
        task = retrieval_task(f"Local{category.upper()}", category, queries, targets)
        check_ranking(scores_of(model, task), ours(queries), ours(targets))


def test_instructions_are_the_tasks(trained, photos):
    encoder, folder = trained
    images = [Item(images=(path,)) for path in photos]
    task = retrieval_task("LocalTold", "t2i", [Item(words) for words in WORDS], images, PROMPT)
    plain = MtebModel.load(config_of(folder), "cpu")
    told = MtebModel.load(config_of(folder), "cpu", instructions=True)
    assert told.mteb_model_meta.revision != plain.mteb_model_meta.revision
    places = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    for model, instructions in ((plain, dict.fromkeys(PROMPT, "")), (told, PROMPT)):
        for kind, instruction in instructions.items():
            found = model.encode([{"text": WORDS}], prompt_type=PromptType(kind), **places)
            items = [Item(words, instruction=instruction) for words in WORDS]
            assert difference(found, embed(encoder, items)) < 1e-5
    for_queries = task.metadata.model_copy(update={"prompt": "Find it."})
    assert told._instruction(for_queries, PromptType.query) == "Find it."
    assert told._instruction(for_queries, PromptType.document) == ""
    assert told._instruction(for_queries, None) == "Find it."  # texts of equal standing
    assert plain._instruction(for_queries, PromptType.query) == ""
    queries = [Item(words, instruction=PROMPT["query"]) for words in WORDS]
    targets = [replace(image, instruction=PROMPT["document"]) for image in images]
    check_ranking(scores_of(told, task), embed(encoder, queries), embed(encoder, targets))


def test_a_text_model_does_only_texts(photos):
    config = config_of(MINILM, encoder=EncoderKind.sentence_transformers)
    model = MtebModel.load(config, "cpu")
    assert model.mteb_model_meta.modalities == ["text"]
    assert scores_of(model, LocalSTS())["cosine_spearman"] > 0.8  # it was trained for this
    images = [Item(images=(path,)) for path in photos]
    with pytest.raises(ValueError, match="supports .'text'., but none overlap"):
        scores_of(model, retrieval_task("LocalI2I", "i2i", images, images))


def test_pictures_are_seen_as_everywhere(tmp_path):
    drawing = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    clear = Image.fromarray(drawing).convert("LA")
    clear.putalpha(Image.new("L", clear.size))
    deep, absent = Image.fromarray(drawing.astype(np.uint16) * 257), [None, math.nan]
    batch = {"text": ["a", "b", None], "image": [deep, clear, [*absent, deep]]}
    items = batch_items(batch, "", tmp_path)
    assert [len(item.images) for item in items] == [1, 1, 1]
    assert [item.text for item in items] == ["a", "b", ""]
    seen = [np.asarray(Image.open(item.images[0])) for item in items]
    assert (seen[0] == drawing[:, :, None]).all() and (seen[1] == 255).all()
    with pytest.raises(DataError, match="an image of mteb's cannot be read: mode F"):
        batch_items({"image": [Image.fromarray(drawing / np.float32(255))]}, "", tmp_path)


def test_another_model_is_no_cached_result(trained, tmp_path, tiny_model):
    _, folder = trained
    cache = mteb.ResultCache(tmp_path / "cache")
    first = MtebModel.load(config_of(folder), "cpu", name="us/model")
    again = MtebModel.load(config_of(folder), "cpu", name="us/model")
    assert first.mteb_model_meta.revision == again.mteb_model_meta.revision
    train_small(tiny_model("qwen2_vl"), tmp_path / "other", rank=2)
    configs = [
        config_of(tmp_path / "other/final"),
        replace(config_of(folder), inputs=InputConfig(max_text_tokens=3)),
    ]
    mteb.evaluate(first, LocalSTS(), cache=cache, show_progress_bar=False)
    for config in configs:
        changed = MtebModel.load(config, "cpu", name="us/model")
        result = mteb.evaluate(changed, LocalSTS(), cache=cache, show_progress_bar=False)
        found = result.task_results[0].scores["test"][0]["cosine_pearson"]
        own, others = [scores_of(m, LocalSTS())["cosine_pearson"] for m in (changed, first)]
        assert abs(found - own) < 1e-4 and abs(found - others) > 1e-3


def test_inputs_of_other_kinds(trained, tmp_path, caplog):
    encoder, folder = trained
    model = MtebModel.load(config_of(folder), "cpu")
    places = {"task_metadata": LocalSTS().metadata, "hf_split": "test", "hf_subset": "default"}
    found = model.encode([{"text": ["a cat", " ", "a dog"]}, {"text": [""]}], **places)
    expected = embed(encoder, [Item("a cat"), Item("a dog")])
    assert difference(found[[0, 2]], expected) < 1e-5 and not found[[1, 3]].any()
    assert "LocalSTS: 2 empty texts have a vector of zeros" in caplog.text
    with pytest.raises(DataError, match="has audio, expected text or image"):
        model.encode([{"audio": [1]}], **places)
    with pytest.raises(DataError, match="an image of mteb's is a int, expected Pillow's"):
        batch_items({"image": [3]}, "", tmp_path)
    found = model.encode([{"text": ["a cat", None, math.nan, np.float32("nan"), "None"]}], **places)
    assert not found[1:4].any()
    assert difference(found[[0, 4]], embed(encoder, [Item("a cat"), Item("None")])) < 1e-5
    for wrong, kind in ((["a"], "list"), (7, "int"), ({"a": 1}, "dict")):
        with pytest.raises(DataError, match=f"a text of mteb's is a {kind}: "):
            model.encode([{"text": ["a", wrong]}], **places)
    with pytest.raises(ValueError, match="precision: got 'int8'"):
        model.encode([{"text": ["a"]}], precision="int8", **places)
