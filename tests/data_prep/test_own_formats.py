"""Public forms of data become prepared sets, and a step trains on each:
./launch.sh test -m "data or not data" tests/data_prep/test_own_formats.py"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from data_prep.own.__main__ import main
from data_prep.own.readers.base import BadRow
from data_prep.own.recognise import READERS, open_reader
from stages import check, stage2_instruct
from tests.support.forms import own_formats
from tests.support.forms.own_formats import COUNT, FORMATS, HELD
from tests.support.paths import ROOT
from unime.config import OwnDataConfig, PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.prepared.folder import PreparedSet
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair
from unime.runtime.files import read_json
from unime.runtime.folder_lock import unlock_folder

CAPTIONS = COUNT + 2  # of the tars: a row in four has two


def prepare(path: Path, out: Path, *words: str) -> dict[str, list[Pair]]:
    """What is trained on, by task, with the names of pictures in place of their paths."""
    main([str(path), str(out), "held_out=0", *words])
    unlock_folder(out)
    there = PreparedSet.of(out)
    assert there is not None
    found = {}
    for task, sizes in there.rows.items():
        rows = PairDataset.load(PairData(str(out), sources={task: PairSource()}), 0)
        assert len(rows) == sizes["train"]
        found[task] = [
            replace(pair, query=named(pair.query), target=named(pair.target),
                    negatives=tuple(map(named, pair.negatives)))
            for pair in rows
        ]  # fmt: skip
    return found


def made(folder: Path) -> Path:
    (folder / "in").mkdir(exist_ok=True)
    return folder / "in"


def named(item: Item) -> Item:
    return replace(item, images=tuple(Path(path).name for path in item.images))


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_recognised_and_all_of_it_is_read(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](made(tmp_path))
    reader, why = open_reader(OwnDataConfig(str(path), str(tmp_path / "out")))
    assert type(reader) is READERS[name] and why.startswith(f"read as {name}:")
    rows = list(reader)
    assert rows == list(reader) and len({row.where for row in rows}) == len(rows)
    assert len(rows) == COUNT * (2 if name == "mmeb_train" else 1)
    assert len({getattr(row, "row_id", row.where) for row in rows}) == len(rows)


def test_ms_swift(tmp_path: Path) -> None:
    (pairs,) = prepare(FORMATS["ms_swift"](made(tmp_path)), tmp_path / "out").values()
    assert pairs[2] == Pair(
        Item("sentence 2", ("2.png",)),
        Item("another 2", ("3.png",)),
        (Item("wrong", ("4.png", "5.png")), Item("or that", ("6.png",))),
        "train.jsonl:2",
    )
    said = "Find its like."
    assert pairs[3].query == Item("with a word", instruction=said)
    assert pairs[3].target.instruction == said and pairs[3].negatives == (Item("not 3"),)
    assert pairs[4].target == Item("", ("7.png",))


def test_lco(tmp_path: Path) -> None:
    (pairs,) = prepare(FORMATS["lco"](made(tmp_path)), tmp_path / "out").values()
    assert pairs[0] == Pair(
        Item("a text 0"), Item("", ("10.png",)), (Item("both 0", ("0.png",)),), "mine.jsonl:0"
    )
    assert pairs[1].target == Item("both 11", ("11.png",))


def test_nemo(tmp_path: Path) -> None:
    (pairs,) = prepare(
        FORMATS["nemo"](made(tmp_path)), tmp_path / "out", "copy_images=true"
    ).values()
    assert len(pairs) == COUNT + 1  # one has two right answers
    assert pairs[0].query == Item("What is 0?", instruction="Answer:")
    assert pairs[0].target == Item("It is 0.") and len(pairs[0].negatives[0].images) == 1
    assert pairs[0].negatives[1] == Item("Number 0.")
    assert [pair.row_id for pair in pairs[1:3]] == ["train.json:1:0", "train.json:1:1"]
    assert pairs[3].query.text == "What is 2?" and pairs[4].target.text == ""


def test_a_folder_of_nemo_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is downloaded: corpora and JSON in one folder, here with a second JSON."""
    path = FORMATS["nemo"](made(tmp_path))
    (one,) = prepare(path, tmp_path / "one", "copy_images=true").values()
    content = own_formats.nemo_content()
    content["data"] = [row | {"question": f"{row['question']} Say it."} for row in content["data"]]
    (path.parent / "more.json").write_text(json.dumps(content))
    (path.parent / "README.md").write_text("mine")
    reader, why = open_reader(OwnDataConfig(str(path.parent), str(tmp_path / "out")))
    assert type(reader) is READERS["nemo"] and "more.json, train.json" in why
    capsys.readouterr()
    (both,) = prepare(path.parent, tmp_path / "out", "copy_images=true").values()
    said = capsys.readouterr().out
    assert [pair for pair in both if pair.row_id.startswith("train.json")] == one
    assert len(both) == 2 * len(one) and "Say it." in both[0].query.text
    assert "passed over, .md: 1" in said and "json" not in said.partition("passed over")[2]


def test_unime_v2(tmp_path: Path) -> None:
    tasks = prepare(FORMATS["unime_v2"](made(tmp_path)), tmp_path / "out")
    assert {name: len(pairs) for name, pairs in tasks.items()} == {
        "A-OKVQA": COUNT // 2,
        "VisDial": COUNT // 2,
    }
    first, shown = tasks["A-OKVQA"][0], tasks["VisDial"][1]
    question = "Represent the given image with the following question: What is 0?"
    assert first.query == Item(question, ("0.png",)) and first.target == Item("answer 0")
    assert first.negatives == (Item("wrong 0"), Item("no")) and first.scores == (0.7, 0.4, 0.2)
    assert shown.negatives[0] == Item("Represent the given image.", ("5.png",))


@pytest.mark.parametrize("name", ["mmeb_train", "mme5"])
def test_mmeb(name: str, tmp_path: Path) -> None:
    tasks = prepare(FORMATS[name](made(tmp_path)), tmp_path / "out")
    assert [*tasks] == ["A-OKVQA", "DocVQA"][: 2 if name == "mmeb_train" else 1]
    pairs = tasks["A-OKVQA"]
    assert pairs[1].query == Item("No picture: who was it?")
    assert pairs[2].target == Item("Represent the given image.", ("9.png",))
    wrong = (Item("wrong 0"),) if name == "mmeb_train" else (Item("wrong 0"), Item("no"))
    assert pairs[0].negatives == wrong
    texts = {item.text for item in pairs[2].negatives}  # an empty one's is the target's in mmE5
    assert texts == ({""} if name == "mmeb_train" else {"Represent the given image."})


def test_mmeb_s_split_that_lacks_a_shard(tmp_path: Path) -> None:
    """It is not read as another split of the subset."""
    path = FORMATS["mmeb_train"](made(tmp_path))
    shard = path / "DocVQA/original-00000-of-00001.parquet"
    assert (path / "DocVQA/train-00000-of-00001.parquet").is_file()
    shard.rename(shard.with_name("original-00000-of-00002.parquet"))
    with pytest.raises(DataError, match="DocVQA: incomplete split 'original'"):
        prepare(path, tmp_path / "out")
    shard.with_name("original-00000-of-00002.parquet").unlink()
    assert len(prepare(path, tmp_path / "other")["DocVQA"]) == 3


def test_mmeb_s_pictures_elsewhere(tmp_path: Path) -> None:
    """Mined rows alone, beside MMEB-train's pictures; and one subset's folder."""
    path = FORMATS["mme5"](made(tmp_path))
    (tmp_path / "MMEB-train").mkdir()
    (path / "images").rename(tmp_path / "MMEB-train/images")
    root = f"image_root={tmp_path / 'MMEB-train'}"
    for place in (path, path / "A-OKVQA", path / "A-OKVQA/train.jsonl"):
        (pairs,) = prepare(place, tmp_path / f"out of {place.name}", root).values()
        assert len(pairs) == COUNT


def test_mme5_s_lists_are_no_code(tmp_path: Path) -> None:
    path = FORMATS["mme5"](made(tmp_path))
    rows = own_formats.mmeb_rows("A-OKVQA", wrong=repr)
    rows[3]["neg_text"] = f"[open({str(tmp_path / 'ran')!r}, 'w')]"
    own_formats.write_lines(path / "A-OKVQA/train.jsonl", rows)
    with pytest.raises(DataError, match="row 3.*'neg_text'"):
        prepare(path, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_sentence_transformers(tmp_path: Path) -> None:
    path = FORMATS["sentence_transformers"](made(tmp_path))
    (pairs,) = prepare(path, tmp_path / "out", "copy_images=true").values()
    assert len(pairs) == COUNT - HELD
    assert pairs[0].query.text == f"What is {HELD}?" and len(pairs[0].negatives) == 2
    (pairs,) = prepare(path, tmp_path / "all", "columns.split=ignore").values()
    assert len(pairs) == COUNT
    with pytest.raises(ConfigError, match=r"columns\.foto: no split of .* there are anchor, posit"):
        prepare(path, tmp_path / "none", "columns.foto=image")


def test_sentence_transformers_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` downloads; here it is given what it had saved."""
    asked = []
    saved = datasets.load_from_disk(str(FORMATS["sentence_transformers"](made(tmp_path))))

    def load(*words: str) -> Any:
        asked.append(words)
        return saved

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    (pairs,) = prepare(Path("me/my-pets/pairs"), tmp_path / "out", "image_root=in/pets").values()
    assert asked[0] == ("me/my-pets", "pairs")
    assert len(pairs) == COUNT - HELD and pairs[0].row_id == "train:0"


def test_webdataset(tmp_path: Path) -> None:
    tasks = prepare(FORMATS["webdataset"](made(tmp_path)), tmp_path / "out")
    assert {name: len(pairs) for name, pairs in tasks.items()} == {
        "tars_i2t": CAPTIONS, "tars_t2i": CAPTIONS
    }  # fmt: skip
    texts = [pair.target.text for pair in tasks["tars_i2t"]]
    assert texts[:5] == ["caption 0", "described 1", "class 2", "one 3", "two 3"]


# Bad rows ----------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def put(key: str, value: Any) -> Change:
    """Change what a path of keys and places leads to."""
    *above, last = key.split(".")

    def change(row: Any) -> None:
        for part in above:
            row = row[int(part) if isinstance(row, list) else part]
        row[int(last) if isinstance(row, list) else last] = value

    return change


BAD = [
    ("ms_swift", 2, put("images", []), "'messages' and 'images': 1 <image> and 0 pictures"),
    ("ms_swift", 1, put("messages.0.content", "none"), "0 <image> and 1 pictures"),
    ("ms_swift", 2, put("images.0", "pictures/no.png"), "'images[0]'"),
    ("ms_swift", 2, put("negative_images.1.0", "no.png"), "'negative_images[1][0]'"),
    ("ms_swift", 2, put("negative_images", [[]]), "'negative_messages' and 'negative_images'"),
    ("ms_swift", 2, put("images.0", "/etc/passwd"), "'images[0]'"),
    ("ms_swift", 2, put("images.0", "http://x/y.png"), "address"),
    ("ms_swift", 0, put("messages", "sentence"), "'messages'"),
    ("ms_swift", 0, put("messages.0.content", 5), "'messages[0].content'"),
    ("ms_swift", 0, put("messages.0.content", "  "), "'messages': neither text nor picture"),
    ("ms_swift", 0, put("messages.0.role", "assistant"), "'messages[0].role'"),
    ("ms_swift", 0, put("messages.0.content", "<video>x"), "videos"),
    ("ms_swift", 0, put("videos", ["a.mp4"]), "'videos'"),
    ("ms_swift", 0, put("positive_messages", []), "'positive_messages'"),
    ("ms_swift", 3, put("label", 0.7), "'label': got 0.7"),
    ("lco", 1, put("anchor.image_path", "data/no.png"), "'anchor.image_path'"),
    ("lco", 0, put("anchor.text", ""), "'anchor.image_path' and 'anchor.text': both empty"),
    ("lco", 1, put("positive", "text"), "'positive'"),
    ("lco", 0, put("anchor.text", 3), "'anchor.text': got 3"),
    ("lco", 0, put("negative", {"text": "no path"}), "negative.image_path"),
    ("unime_v2", 0, put("query_image", "images/no.png"), "'query_image'"),
    ("unime_v2", 0, put("pos_text", ""), "'pos_text' and 'pos_image': both empty"),
    ("unime_v2", 0, put("hard_negatives.1", ["alone"]), "'hard_negatives[1]'"),
    ("unime_v2", 5, put("hard_negatives.0.1", "no.png"), "'hard_negatives[0][1]'"),
    ("unime_v2", 0, put("hard_negatives_scores", [0.4]), "a number and a list of 2"),
    ("unime_v2", 0, put("query_pos_scores", "high"), "a number and a list of 2"),
    ("unime_v2", 0, put("hard_negatives", None), "'hard_negatives'"),
    ("mme5", 2, put("pos_image_path", "images/no.png"), "'pos_image_path'"),
    ("mme5", 0, put("qry", 4), "'qry': got 4"),
    ("mme5", 1, put("qry", ""), "'qry' and 'qry_image_path'"),
    ("mme5", 3, put("neg_text", "['one'"), "'neg_text'"),
    ("mme5", 3, put("neg_text", "['one']"), "1 and 2 entries"),
]
SOURCES: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {
    "ms_swift": own_formats.ms_swift_rows,
    "lco": lambda _: own_formats.lco_rows(),
    "unime_v2": lambda _: own_formats.unime_v2_rows(),
    "mme5": lambda _: own_formats.mmeb_rows("A-OKVQA", wrong=repr),
}


def bad_rows(path: Path, row: int, said: str) -> None:
    """Named by file, row and column; all others are read."""
    reader, _ = open_reader(OwnDataConfig(str(path), "out"))
    rows = list(reader)
    assert len(rows) == COUNT
    (bad,) = [found for found in rows if isinstance(found, BadRow)]
    assert bad.where.endswith(f", row {row}") and str(path.parent) in bad.where
    assert said in bad.reason, bad


def bad_pictures(path: Path, out: Path, row: int, said: str) -> None:
    """What is found when pictures are read."""
    main([str(path), str(out), "held_out=0", "on_bad_row=drop"])
    unlock_folder(out)
    (line,) = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert line["where"].endswith(f", row {row}") and said in line["reason"], line
    there = PreparedSet.of(out)
    assert there is not None and there.source["counts"]["bad rows"] == 1


@pytest.mark.parametrize(("name", "row", "change", "said"), BAD)
def test_bad_rows(name: str, row: int, change: Change, said: str, tmp_path: Path) -> None:
    path = FORMATS[name](made(tmp_path))
    rows = SOURCES[name](made(tmp_path))
    change(rows[row])
    if name == "unime_v2":
        path.write_text(json.dumps(rows))
    else:
        own_formats.write_lines(path / "A-OKVQA/train.jsonl" if path.is_dir() else path, rows)
    bad_rows(path, row, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("pos_doc", [{"id": "d_99"}]), "'pos_doc[0]': got {'id': 'd_99'}"),
        (put("neg_doc", ["d_0", None]), "'neg_doc[1]'"),
        (put("neg_doc", "d_0"), "'neg_doc'"),
        (put("pos_doc", []), "'pos_doc'"),
        (put("corpus_id", "another"), "'corpus_id': got 'another', expected one of wiki"),
        (put("question", " "), "'question'"),
        (lambda row: row.pop("question_id"), "question_id"),
    ],
)
def test_bad_rows_of_nemo(change: Change, said: str, tmp_path: Path) -> None:
    path = FORMATS["nemo"](made(tmp_path))
    content = own_formats.nemo_content()
    change(content["data"][4])
    path.write_text(json.dumps(content))
    bad_rows(path, 4, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[HELD + 1].update(label=0), "'label': got 0"),
        (lambda rows: rows[HELD + 1].update(anchor=" "), "'anchor'"),
    ],
)
def test_bad_rows_of_saved_sets(
    change: Callable[[list[dict[str, Any]]], object], said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = own_formats.saved_rows(made(tmp_path))
    change(rows)
    monkeypatch.setattr(own_formats, "saved_rows", lambda _: rows)
    bad_rows(FORMATS["sentence_transformers"](made(tmp_path)), 1, said)


def test_bad_pictures_of_saved_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = own_formats.saved_rows(made(tmp_path))
    rows[HELD + 1]["negative_1"] = {"bytes": b"no picture", "path": None}
    monkeypatch.setattr(own_formats, "saved_rows", lambda _: rows)
    path = FORMATS["sentence_transformers"](made(tmp_path))
    bad_pictures(path, tmp_path / "out", 1, "identify")


def without(name: str) -> Callable[[dict[str, bytes]], object]:
    return lambda files: files.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("00000/00001.json"), "no caption"),
        (without("00000/00001.png"), "0 pictures"),
        (lambda files: files.update({"00000/00001.json": b"[1]"}), "'json': got [1]"),
        (lambda files: files.update({"00000/00001.json": b'{"caption": 5}'}), "'json.caption[0]'"),
        (lambda files: files.update({"00000/00001.json": b"{"}), "'json': cannot read it"),
        (lambda files: files.update({"00000/00001.json": b"\xff"}), "'json'"),
        (lambda files: files.update({"00000/00001.png": b""}), "'png': empty"),
    ],
)
def test_bad_rows_of_tars(
    change: Callable[[dict[str, bytes]], object], said: str, tmp_path: Path
) -> None:
    files = own_formats.tar_files(range(COUNT))
    change(files)
    bad_rows(own_formats.write_tar(tmp_path / "mine.tar", files), 1, said)


def test_bad_pictures_of_tars(tmp_path: Path) -> None:
    files = own_formats.tar_files(range(COUNT)) | {"00000/00001.png": b"no picture"}
    path = own_formats.write_tar(made(tmp_path) / "mine.tar", files)
    bad_pictures(path, tmp_path / "out", 1, "identify")


@pytest.mark.parametrize("kind", ["link", "outside", "large"])
def test_members_that_are_none(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.own.readers.webdataset.LARGEST_PICTURE", 5000)
    path = own_formats.write_tar(tmp_path / "mine.tar", own_formats.tar_files(range(COUNT - 1)))
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("../../x.png" if kind == "outside" else "x.png")
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        own_formats.add(tar, member, bytes(9000 if kind == "large" else 0))
    said = {"link": "a link", "outside": "leaves the tar", "large": "9000 bytes, more than 5000"}
    bad_rows(path, COUNT - 1, said[kind])
    assert not (tmp_path.parent / "x.png").exists()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, "a block", "its end", "more"])
def test_a_damaged_tar_is_named(share: float | str, tmp_path: Path) -> None:
    """Cut anywhere, between members too, or with something behind its end: never in silence."""
    path = own_formats.write_tar(tmp_path / "mine.tar", own_formats.tar_files(range(4)))
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        places = [member.offset for member in tar]
        end = tar.offset - 1024  # two blocks of zeros
    zeros = content.rstrip(b"\0")
    cut: dict[float | str, bytes] = {
        "a block": content[: places[3]], "its end": content[: -(-len(zeros) // 512) * 512],
        "more": content + content,
    }  # fmt: skip
    assert end > places[3]
    path.write_bytes(cut[share] if isinstance(share, str) else content[: int(share * len(zeros))])
    with pytest.raises(DataError, match="mine.tar: a damaged tar"):
        prepare(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("sentence_transformers", lambda path: (path / "train/state.json").write_text("{}")),
        ("sentence_transformers", lambda path: cut(next(path.glob("train/*.arrow")))),
        ("sentence_transformers", lambda path: (path / "train/state.json").write_text(
            '{"_data_files": [{"filename": "../../../x.arrow"}]}')),
        ("nemo", lambda path: (path.parent / "corpora/wiki/merlin_metadata.json").unlink()),
        ("nemo", lambda path: cut(path.parent / "corpora/wiki/train-00000-of-00001.parquet")),
        ("mmeb_train", lambda path: cut(path / "DocVQA/original-00000-of-00001.parquet")),
    ],
)  # fmt: skip
def test_damaged_files_are_named(
    name: str, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    path = FORMATS[name](made(tmp_path))
    damage(path)
    with pytest.raises(DataError) as caught:
        prepare(path, tmp_path / "out", f"reader={name}")
    assert str(tmp_path) in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Training ----------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", FORMATS)
def test_a_check_and_a_step_of_stage2(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tasks = prepare(FORMATS[name](made(tmp_path)), out)
    sources = "{" + ", ".join(f"{task}: {{}}" for task in tasks) + "}"
    (tmp_path / "stage2.yaml").write_text(f"""
run: {{output_dir: {tmp_path / "run"}, trackers: []}}
model: {{name: {ROOT / "assets/base"}, precision: float32}}
lora: {{rank: 2, alpha: 4, train: [llm]}}
inputs: {{resolution: 32x32, max_text_tokens: 32}}
data: {{root: {out}, sources: {sources}}}
loss: {{num_hard_negatives: 2, temperature: 0.05}}
optim: {{steps: 1, batch_size_per_device: 4, chunk_size: 4, learning_rate: 1e-3, warmup_steps: 0}}
""")
    check.main([str(tmp_path / "stage2.yaml")])
    found = read_json(tmp_path / "run/check/check.json")
    written = PreparedSet.of(out).rows  # type: ignore[union-attr]
    assert (
        found["rows"] == found["accepted"] == sum(n for s in written.values() for n in s.values())
    )
    stage2_instruct.main(["--config", str(tmp_path / "stage2.yaml")])
    (line,) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] > 0
