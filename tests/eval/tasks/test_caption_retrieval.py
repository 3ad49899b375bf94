"""UniME's retrieval suite and SugarCrepe: what becomes of their files, and which way is which.

./launch.sh test tests/eval/tasks/test_caption_retrieval.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from eval.miniatures.captions import (
    COCO,
    FLICKR,
    SHAREGPT4V,
    SHAREGPT4V_FILE,
    URBAN1K,
    VAL2017,
    caption_lists,
    sharegpt4v_items,
    sugarcrepe_rows,
    write_captioned,
    write_retrieval_sets,
    write_sharegpt4v,
    write_sugarcrepe,
    write_urban1k,
)
from eval.scoring import score_task
from eval.tasks.base import EvalTask
from eval.tasks.caption_retrieval import CaptionedRows
from eval.tasks.long_captions import ShareGpt4v, Urban1k
from eval.tasks.sources import EvalSource
from eval.tasks.sugarcrepe import SugarCrepe
from eval.tasks.suites import load_suite
from tests.support.paths import SUITES
from tests.support.results import source
from unime.config import EvalData
from unime.data import json_files
from unime.data.json_files import json_items
from unime.errors import DataError
from unime.inputs.items import Item
from unime.retrieval.ranking import rank_targets, ranking_metrics

ASKED = "Find an image caption describing the given image."


def rows(direction: str, repository: str = FLICKR, **settings: Any) -> CaptionedRows:
    return CaptionedRows(direction=direction, repository=repository, **settings)


def both_ways(root: Path, repository: str = FLICKR) -> tuple[EvalTask, EvalTask]:
    """Captions search pictures, and pictures search captions."""
    t2i, i2t = (rows(way, repository).read(way, source(root)) for way in ("t2i", "i2t"))
    return t2i, i2t


def test_captions_search_pictures_and_pictures_captions(tmp_path: Path) -> None:
    captions = caption_lists(3)
    write_captioned(tmp_path, FLICKR, captions)
    t2i, i2t = both_ways(tmp_path)
    assert (t2i.name, t2i.num_rows, t2i.candidates, t2i.left_out) == ("t2i", 15, None, [])
    assert t2i.queries == [Item(text) for texts in captions for text in texts]
    assert t2i.target_names == ["0", "1", "2"]
    assert [item.kind for item in t2i.targets] == ["image"] * 3
    assert t2i.relevance == [{place: 1.0} for place in (0, 1, 2) for _ in range(5)]
    assert (i2t.num_rows, i2t.candidates, i2t.left_out) == (3, None, [])
    assert (i2t.queries, i2t.targets) == (t2i.targets, t2i.queries)
    assert i2t.target_names == [f"{picture}.{n}" for picture in range(3) for n in range(5)]
    assert i2t.relevance == [{5 * place + n: 1.0 for n in range(5)} for place in range(3)]


def test_recall_at_k_is_hit_at_k(tmp_path: Path) -> None:
    """Against its definition in deepglint/UniME's retrieval_self.py, written by place: the one
    picture of a caption, or any caption of a picture, among the k best."""
    write_captioned(tmp_path, FLICKR, caption_lists(12))
    t2i, i2t = both_ways(tmp_path)
    draw = torch.Generator().manual_seed(0)
    pictures, captions = torch.randn(12, 6, generator=draw), torch.randn(60, 6, generator=draw)
    captions += pictures.repeat_interleave(5, dim=0) / 2
    own = torch.arange(12)[:, None] == torch.arange(60) // 5  # (P, C)
    for task, queries, targets, right in (
        (t2i, captions, pictures, own.T), (i2t, pictures, captions, own),
    ):  # fmt: skip
        order = (queries @ targets.T).argsort(dim=1, descending=True)
        best = rank_targets(queries, targets, task.candidates).targets
        found = ranking_metrics(best, task.relevance)
        for k in (1, 5, 10):
            expected = right.gather(1, order[:, :k]).any(dim=1).float()
            assert found[f"hit@{k}"].tolist() == expected.tolist()
            assert 0 < expected.mean() < 1


def test_five_captions_count(tmp_path: Path) -> None:
    captions = [["a", "b"], list("cdefgh"), [*"ijklm", "", None], ["n"]]
    path = write_captioned(tmp_path, COCO, captions)
    t2i, task = both_ways(tmp_path, COCO)
    assert [item.text for item in task.targets] == list("abcdefgijklmn")
    assert [sorted(relevant) for relevant in task.relevance] == [
        [0, 1], [2, 3, 4, 5, 6], [7, 8, 9, 10, 11], [12],
    ]  # fmt: skip
    assert task.left_out == [
        f"{path}, row 1: the captions after the first 5 of 6",
        f"{path}, row 2: the captions after the first 5 of 7",
    ]
    assert len(t2i.queries) == 13
    all_of_row_1 = rows("t2i", COCO, max_captions=6)
    write_captioned(tmp_path, COCO, captions[:2])
    assert len(all_of_row_1.read("", source(tmp_path)).queries) == 8


def test_equal_captions_and_equal_pictures_stay(tmp_path: Path) -> None:
    """Each is one query and one target, however many are like it; of equal scores the first in the
    data is on top."""
    path = write_captioned(tmp_path, FLICKR, [["a dog", "a cat"], ["a dog"], ["a cow", "a cow"]])
    table = pq.read_table(path).to_pylist()
    table[1]["image"] = table[0]["image"]
    pq.write_table(pa.Table.from_pylist(table), path)  # without the hub's own description, too
    t2i, i2t = both_ways(tmp_path)
    assert t2i.targets[0] == t2i.targets[1] != t2i.targets[2]
    assert [item.text for item in i2t.targets] == ["a dog", "a cat", "a dog", "a cow", "a cow"]
    assert (len(t2i.queries), len(i2t.queries)) == (5, 3)

    likes = [{"a dog", "a cat"}, {"a dog", "a cat"}, {"a cow"}]  # of each picture, in whatever row
    scores = torch.tensor([[float(query.text in own) for own in likes] for query in t2i.queries])
    for task, rows_of, hits in ((t2i, scores, [1, 1, 0, 1, 1]), (i2t, scores.T, [1, 0, 1])):
        found = rank_targets(rows_of, torch.eye(rows_of.shape[1])).targets
        assert ranking_metrics(found, task.relevance)["hit@1"].tolist() == hits


def test_limit_takes_queries_and_no_targets(tmp_path: Path) -> None:
    write_retrieval_sets(tmp_path)
    limited = source(tmp_path, limit=3)
    task = rows("t2i").read("", limited)
    assert (len(task.queries), len(task.relevance), len(task.targets)) == (3, 3, 4)
    assert (task.num_rows, task.relevance) == (20, [{0: 1.0}] * 3)
    task = rows("i2t").read("", limited)
    assert (task.num_rows, len(task.queries), len(task.targets)) == (4, 3, 20)
    task = SugarCrepe(file="data/replace_att.json").read("", limited)
    assert (task.num_rows, len(task.queries)) == (4, 3)


def test_instructions_stand_beside_the_items(tmp_path: Path) -> None:
    write_retrieval_sets(tmp_path)
    asked = {"image_instruction": ASKED, "text_instruction": "Find its picture."}
    task = rows("t2i", **asked).read("", source(tmp_path))
    plain = rows("t2i").read("", source(tmp_path))
    assert task.targets == [replace(item, instruction=ASKED) for item in plain.targets]
    assert {item.instruction for item in task.queries} == {"Find its picture."}
    assert {item.instruction for item in plain.queries + plain.targets} == {""}
    crepe = SugarCrepe(file="data/swap_obj.json", **asked).read("", source(tmp_path))
    assert {item.instruction for item in crepe.queries} == {ASKED}
    assert {item.instruction for item in crepe.targets} == {"Find its picture."}


def test_sharegpt4v_is_its_first_items(tmp_path: Path) -> None:
    items = sharegpt4v_items(tmp_path, 3)
    write_sharegpt4v(tmp_path, [*items[:2], {"never": "read"}])
    sharegpt4v = ShareGpt4v(direction="t2i", repository=SHAREGPT4V, num_items=2)
    task = sharegpt4v.read("ShareGPT4V_t2i", source(tmp_path))
    assert task.queries == [
        Item(f"A long story.  It is about thing {n} – all of it.") for n in range(2)
    ]
    pictures = [Item(images=(str(tmp_path / f"sam/images/sa_{n}.jpg"),)) for n in range(2)]
    assert (task.targets, task.target_names) == (pictures, ["0", "1"])
    assert task.relevance == [{0: 1.0}, {1: 1.0}]
    task = replace(sharegpt4v, direction="i2t").read("", source(tmp_path))
    assert (task.queries, task.target_names) == (pictures, ["0.0", "1.0"])
    assert ShareGpt4v("i2t", SHAREGPT4V).num_items == 1000
    elsewhere = source(tmp_path / "rows", image_root=str(tmp_path))
    shutil.move(tmp_path / SHAREGPT4V, tmp_path / "rows" / SHAREGPT4V)
    assert replace(sharegpt4v, direction="i2t").read("", elsewhere) == task


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_json_items_are_those_of_json(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "CHUNK", chunk)
    items = [{"a": "]},{[", "b": [1, {"c": '\\" é\u2028'}]}, {}, {"d": None}]
    for text in (
        json.dumps(items),
        json.dumps(items, indent=2, ensure_ascii=False),
        " [ ]\n",
        "[]",
        '[[12, -3.25e2], true, null, "7"]',
    ):
        path = tmp_path / "items.json"
        path.write_text(text, encoding="utf-8")
        assert list(json_items(path)) == json.loads(text)


@pytest.mark.parametrize("below", ["", "Urban1k", "zip"])
def test_urban1k(tmp_path: Path, below: str) -> None:
    folder = write_urban1k(tmp_path, 3, below.replace("zip", "Urban1k"))
    (folder / "caption/9.txt").write_bytes(b"\xef\xbb\xbfLine one.\r\nLine two.\r\n")
    (folder / "image/.DS_Store").write_bytes(b"junk")
    contents = [(folder / f"image/{n}.jpg").read_bytes() for n in (10, 8, 9)]
    place = folder
    if below == "zip":
        (tmp_path / "__MACOSX/Urban1k/image").mkdir(parents=True)
        (tmp_path / "__MACOSX/Urban1k/image/._8.jpg").write_bytes(b"junk")
        shutil.move(folder, tmp_path / "packed/Urban1k")
        shutil.move(tmp_path / "__MACOSX", tmp_path / "packed/__MACOSX")
        place = tmp_path / URBAN1K / "Urban1k.zip"
        shutil.make_archive(str(place.with_suffix("")), "zip", tmp_path / "packed")
    task = Urban1k(direction="i2t", repository=URBAN1K).read("Urban1K_i2t", source(tmp_path))
    assert task.targets == [
        Item("A street, number 10."), Item("A street, number 8."), Item("Line one."),
    ]  # fmt: skip
    assert task.target_names == ["10.0", "8.0", "9.0"]
    assert [Path(item.images[0]).read_bytes() for item in task.queries] == contents
    assert task.relevance == [{0: 1.0}, {1: 1.0}, {2: 1.0}]
    assert task.left_out == [f"{place}, caption of 9: the lines after the first"]
    t2i = Urban1k(direction="t2i", repository=URBAN1K).read("", source(tmp_path))
    assert (t2i.queries, t2i.targets) == (task.targets, task.queries)
    assert t2i.target_names == ["10", "8", "9"]


def test_sugarcrepe(tmp_path: Path) -> None:
    write_sugarcrepe(tmp_path, "swap_att", sugarcrepe_rows(tmp_path, 2))
    task = SugarCrepe(file="data/swap_att.json").read("SugarCrepe_swap_att", source(tmp_path))
    assert task.num_rows == 2
    assert task.queries == [
        Item(images=(str(tmp_path / VAL2017 / f"{n:012}.jpg"),)) for n in range(2)
    ]
    assert dict(zip(task.target_names, (item.text for item in task.targets), strict=True)) == {
        "0.negative_caption": "A cat beside 0 dogs.",
        "0.caption": "A dog beside 0 cats.",
        "1.negative_caption": "A cat beside 1 dogs.",
        "1.caption": "A dog beside 1 cats.",
    }
    assert task.candidates == [[0, 1], [2, 3]]
    assert task.relevance == [{1: 1.0}, {3: 1.0}]


def test_sugarcrepe_is_strict(tmp_path: Path) -> None:
    """Above its negative by any margin, not beside it; two equal captions tie."""
    made = sugarcrepe_rows(tmp_path, 4)
    made["3"]["negative_caption"] = made["3"]["caption"]
    write_sugarcrepe(tmp_path, "add_obj", made)
    task = SugarCrepe(file="data/add_obj.json").read("", source(tmp_path))
    scores = {
        made["0"]["caption"]: 0.5, made["0"]["negative_caption"]: 0.5,  # a tie
        made["1"]["caption"]: 0.5 + 1e-9, made["1"]["negative_caption"]: 0.5,
        made["2"]["caption"]: 0.4, made["2"]["negative_caption"]: 0.5,
        made["3"]["caption"]: 1.0,
    }  # fmt: skip
    targets = torch.tensor([[scores[item.text]] for item in task.targets], dtype=torch.float64)
    places = {item: place for place, item in enumerate(task.targets)}
    items = torch.tensor([places[item] for item in task.targets])  # the fourth's are one item
    ones = torch.ones(4, 1, dtype=torch.float64)
    ranking, metrics = score_task(task, ones, targets, items)
    assert metrics["hit@1"].tolist() == [0, 1, 0, 0]
    assert ranking.ties is not None and ranking.ties.count(1) == 1, "a tie of two captions counts"


def test_sugarcrepe_pictures_elsewhere(tmp_path: Path) -> None:
    write_sugarcrepe(tmp_path / "data", "add_att", sugarcrepe_rows(tmp_path, 1))
    flat = SugarCrepe(file="data/add_att.json", image_folder="")
    pictures = source(tmp_path / "data", image_root=str(tmp_path / VAL2017))
    assert flat.read("", pictures).queries[0].images == (f"{tmp_path / VAL2017}/{0:012}.jpg",)


def test_files_come_from_the_hub_where_no_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = sharegpt4v_items(tmp_path, 2)
    downloaded = write_sharegpt4v(tmp_path / "hub", items)
    asked: list[Any] = []

    def download(*names: str, **settings: Any) -> str:
        asked.append((names, settings))
        return str(downloaded)

    monkeypatch.setattr("eval.tasks.sources.hf_hub_download", download)
    sharegpt4v = ShareGpt4v("t2i", SHAREGPT4V, revision="407c0b9")
    pictures = EvalSource(EvalData(image_root=str(tmp_path), cache=str(tmp_path / "cache")))
    assert len(sharegpt4v.read("", pictures).queries) == 2
    settings = {"repo_type": "dataset", "revision": "407c0b9"}
    assert asked == [((SHAREGPT4V, SHAREGPT4V_FILE), settings)]
    write_sharegpt4v(tmp_path, items[:1])
    assert len(sharegpt4v.read("", source(tmp_path)).queries) == 1  # the folder comes first
    assert len(asked) == 1
    monkeypatch.setattr("eval.tasks.sources.hf_hub_download", huggingface_hub.hf_hub_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(
        DataError, match=f"no folder '{SHAREGPT4V}' in None, and of the hub no file"
    ):
        sharegpt4v.read("", pictures)


def test_the_suites_read_all_sources(tmp_path: Path) -> None:
    write_retrieval_sets(tmp_path)
    read = source(tmp_path)
    sizes = {"Flickr30K": (20, 4), "COCO5K": (25, 5), "ShareGPT4V": (4, 4), "Urban1K": (3, 3)}
    suite = load_suite(str(SUITES / "retrieval.yaml"))
    assert list(suite) == [f"{name}_{way}" for name in sizes for way in ("t2i", "i2t")]
    for name, task in suite.items():
        captions, pictures = sizes[name[:-4]]
        made = task.read(name, read)
        assert (len(made.queries), len(made.targets)) == (
            (captions, pictures) if name.endswith("t2i") else (pictures, captions)
        )
        length = "short" if name.startswith(("Flickr", "COCO")) else "long"
        assert (task.meta_task, task.modality) == (f"{length}_retrieval", "retrieval")
        assert (task.metric, task.distribution) == ("hit@1", None)
    for name, task in load_suite(str(SUITES / "sugarcrepe.yaml")).items():
        made = task.read(name, read)
        assert name == f"SugarCrepe_{Path(task.format.file).stem}"
        assert (task.meta_task, task.modality) == (name.split("_")[1], "compositional")
        assert (len(made.queries), len(made.targets)) in ((3, 6), (4, 8))


def test_the_instruct_suite_differs_in_the_instruction() -> None:
    plain = load_suite(str(SUITES / "retrieval.yaml")) | load_suite(str(SUITES / "sugarcrepe.yaml"))
    instruct = load_suite(str(SUITES / "retrieval_instruct.yaml"))
    assert list(instruct) == list(plain)
    assert len(plain) == 15
    for name, task in plain.items():
        asked = replace(task, format=replace(task.format, image_instruction=ASKED))
        assert instruct[name] == asked
