"""`./launch.sh mine`: from rows with pictures to a set with negatives that stage 2 trains with.

./launch.sh test tests/mining/test_mined_set.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.miniatures.mmeb import train_rows, write_rows
from stages import mine
from tests.support.material import metrics, stage2
from unime.config import PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.prepared import folder as prepared
from unime.data.prepared.folder import PreparedSet
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair, item_digest
from unime.mining.corpus import content
from unime.retrieval import stored

STAMPS = Path("/usr/share/tuxpaint/stamps")
Mine = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Mine:
    """Mines a folder, as the program does."""
    folder = tmp_path_factory.mktemp("mined")
    (folder / "mine.yaml").write_text(
        f"model: {{name: {tiny_model('qwen2_vl')}, quantization: none, precision: float32}}\n"
        "mining: {false_negative_margin: null, num_negatives: 3}\nbatch_size: 16\n"
    )

    def call(root: Path, name: str, *settings: str) -> Path:
        words = ["--config", str(folder / "mine.yaml"), f"data.root={root}"]
        mine.main([*words, f"output_dir={folder / name}", *settings])
        return folder / name

    return call


@pytest.fixture(scope="module")
def mined(run: Mine, material: Path) -> Path:
    return run(material / "mmeb", "mmeb")


def there(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*.*") if path.is_file() and path.name != ".lock"]
    files = [path for path in files if "embeddings" not in path.parts]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def rows_of(root: Path, *tasks: str) -> list[Pair]:
    sources = {task: PairSource() for task in tasks}
    return list(PairDataset.load(PairData(root=str(root), sources=sources), 0))


def test_rows_stay_and_get_negatives(mined: Path, material: Path) -> None:
    for task in ("Questions", "Captions"):
        before, after = rows_of(material / "mmeb", task), rows_of(mined, task)
        targets = {content(pair.target) for pair in before}
        for old, new in zip(before, after, strict=True):
            assert new.row_id == old.row_id
            for one, other in ((old.query, new.query), (old.target, new.target)):
                assert (one.text, one.images, one.instruction) == (
                    other.text, other.images, other.instruction)  # fmt: skip
            count = len(old.negatives)
            assert list(map(content, new.negatives[:count])) == list(map(content, old.negatives))
            own = [content(item) for item in new.negatives[count:]]
            right = {content(p.target) for p in before if content(p.query) == content(old.query)}
            assert len(set(own)) == len(own) == 3 and set(own) <= targets  # of the task alone
            assert not set(own) & (right | set(map(content, old.negatives)))
    told = PreparedSet.of(mined)
    assert told is not None and told.rows == {"Captions": {"train": 16}, "Questions": {"train": 16}}
    assert Path(told.image_root) == material / "mmeb"
    assert told.source["mined"]["settings"]["mining"]["num_negatives"] == 3


def test_stage2_counts_them_in_its_loss(mined: Path, material: Path) -> None:
    plain = stage2(material, "without", "optim.steps=2")
    ours = stage2(material, "with", "optim.steps=2", f"data.root={mined}")
    for line, other in zip(metrics(ours), metrics(plain), strict=True):
        assert line["distinct_negatives"] > other["distinct_negatives"]
        assert line["loss"] != other["loss"]


def test_the_report_counts_and_shows(mined: Path) -> None:
    report = json.loads((mined / "mining/Captions.json").read_text())
    rules, scores = report["rules"], report["scores"]
    first = sum(rule["first"] for rule in rules.values())
    assert report["negatives"] == 16 * 3 == scores["negative"]["count"]
    assert scores["positive"]["count"] == 16 and scores["dropped"]["count"] == first
    assert rules["known positive"]["dropped"] == 16  # all targets are candidates of each row
    assert rules["given negative"]["dropped"] == 10
    assert report["short"] == {"rows": 0, "found": {}} and len(report["examples"]) == 10
    page, table = (mined / "report.html").read_text(), (mined / "report.md").read_text()
    assert page.count('<article class="card">') == 20 and "data:image/webp" in page
    assert "<script" not in page and str(mined.parent) not in page
    assert "| Captions | 16 | 16 | 48 | 0 | 0 |" in table


def test_short_rows_are_counted_and_listed(run: Mine, material: Path) -> None:
    out = run(
        material / "mmeb", "short", "data.tasks=[Captions]", "mining.min_score=0.999999",
        "mining.sampling_strategy=random", "mining.absolute_margin=0",
    )  # fmt: skip
    report = json.loads((out / "mining/Captions.json").read_text())
    counts = {pair.row_id: len(pair.negatives) for pair in rows_of(out, "Captions")}
    before = {pair.row_id: len(pair.negatives) for pair in rows_of(material / "mmeb", "Captions")}
    found = {row_id: counts[row_id] - before[row_id] for row_id in counts}
    short = {row_id: count for row_id, count in found.items() if count < 3}
    assert short and report["short"] == {"rows": len(short), "found": short}


def test_the_same_command_keeps_what_is_there(
    run: Mine, mined: Path, material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in mined.rglob("*.parquet")}

    def fail(*_: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(stored, "load_embedder", fail)
    assert run(material / "mmeb", "mmeb") == mined
    assert {path: path.stat().st_mtime_ns for path in mined.rglob("*.parquet")} == before
    store = f"store={mined / 'embeddings'}"
    two = run(material / "mmeb", "two", "mining.num_negatives=2", store)  # the embeddings are there
    assert all(len(pair.negatives) == 2 for pair in rows_of(two, "Questions"))


def test_answers_are_known_positives_and_go_along(run: Mine, tmp_path: Path) -> None:
    """Of a column of MMEB's rows, then of the set that was made of them."""
    rows = [row | {"kind": n % 4} for n, row in enumerate(train_rows(tmp_path, "Questions", 16))]
    write_rows(tmp_path, "Questions", "original", rows)
    out = run(tmp_path, "kinds", "data.answer_column=kind", "mining.num_negatives=12")
    again = run(out, "kinds_again", "mining.num_negatives=12")
    for folder in (out, again):
        found = rows_of(folder, "Questions")
        kind = {pair.target.text: pair.answer for pair in found}
        assert [pair.answer for pair in found] == [str(n % 4) for n in range(16)]
        for pair in found:
            mined = [kind[item.text] for item in pair.negatives]
            assert len(set(mined)) == 3 and pair.answer not in mined
    assert len(found[0].negatives) == 12  # none is left to be mined again
    with pytest.raises(ConfigError, match=r"with other data\.answer_column; name"):
        run(tmp_path, "kinds", "mining.num_negatives=12")
    blind = run(tmp_path, "blind")
    assert all(pair.answer == "" for pair in rows_of(blind, "Questions"))


def test_a_set_of_before_there_was_a_column_of_answers_goes_on(
    run: Mine, mined: Path, material: Path
) -> None:
    path = mined / "set.json"
    saved = path.read_text()
    told = json.loads(saved)
    del told["source"]["mined"]["settings"]["data"]["answer_column"]
    path.write_text(json.dumps(told))
    before = {file: file.stat().st_mtime_ns for file in mined.rglob("*.parquet")}
    assert run(material / "mmeb", "mmeb") == mined
    assert {file: file.stat().st_mtime_ns for file in mined.rglob("*.parquet")} == before
    assert json.loads(path.read_text()) == json.loads(saved)


def test_what_was_mined_otherwise_is_not_replaced(run: Mine, mined: Path, material: Path) -> None:
    before = there(mined)
    with pytest.raises(ConfigError, match=r"with other mining\.num_negatives, seed; name"):
        run(material / "mmeb", "mmeb", "mining.num_negatives=2", "seed=7", "mining.memory=0.5")
    copy = mined.parent / "data" / "mmeb"
    shutil.copytree(material / "mmeb", copy)
    with pytest.raises(ConfigError, match=r"with other data\.root; name"):
        run(copy, "mmeb")
    assert there(mined) == before
    out = run(copy, "changing", "data.tasks=[Questions]")
    rows = train_rows(copy, "Questions", 16)
    write_rows(copy, "Questions", "original", rows[::-1])
    before = there(out)
    with pytest.raises(ConfigError, match="with other rows of Questions; name"):
        run(copy, "changing", "data.tasks=[Questions]")
    assert there(out) == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["output_dir=ROOT"], "output_dir: got .*, expected a folder beside data.root"),
        (["output_dir=ROOT/below"], "output_dir: got .*, expected a folder beside data.root"),
        (["data.tasks=[mining]"], "data.tasks: got 'mining'"),
        (["data.tasks=[../x]"], "data.tasks: got '../x'"),
        (["data.root=ROOT/images"], "data.tasks: .* has no folder of a task"),
        (["data.tasks=[Lost]"], "Lost"),
        (["data.tasks=[Captions]", "data.image_root=ROOT/Captions"], "Captions"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(
    run: Mine, material: Path, settings: list[str], told: str
) -> None:
    root = material / "mmeb"
    with pytest.raises((ConfigError, DataError), match=told):
        run(root, "refused", *(word.replace("ROOT", str(root)) for word in settings))


def test_another_prepared_set_is_not_written_over(run: Mine, material: Path, mined: Path) -> None:
    other = mined.with_name("other")
    other.mkdir()
    PreparedSet("", {}).write(other)
    with pytest.raises(ConfigError, match="is another prepared set"):
        run(material / "mmeb", "other")


def test_bad_rows_are_left_out_and_listed(run: Mine, tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "Questions", 8)
    rows[3]["qry_image_path"] = "images/lost.png"
    write_rows(tmp_path, "Questions", "original", rows)
    with pytest.raises(DataError, match="row 3"):
        run(tmp_path, "bad")
    out = run(tmp_path, "bad", "data.on_bad_row=drop")
    report = json.loads((out / "mining/Questions.json").read_text())
    assert report["rows"] == 7 and len(report["left_out"]) == 1
    assert "row 3" in report["left_out"][0]
    assert "| Questions | 7 |" in (out / "report.md").read_text()


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Tux Paint's stamps")
def test_pictures_of_a_prepared_set_are_mined(run: Mine, tmp_path: Path) -> None:
    """Real pictures as targets, with a second model that agrees and one that never does."""
    paths = [path for path in sorted(STAMPS.rglob("*.png")) if path.with_suffix(".txt").is_file()]
    chosen = paths[:: len(paths) // 12][:12]
    pairs = [
        Pair(
            Item(path.with_suffix(".txt").read_text().splitlines()[0], instruction="Find:"),
            Item(images=(path.relative_to(STAMPS).as_posix(),)),
            row_id=path.stem,
        )
        for path in chosen
    ]  # fmt: skip
    root = tmp_path / "set"
    prepared.write_rows(root / "stamps_t2i", "train", pairs, len(pairs))
    PreparedSet(str(STAMPS), {"stamps_t2i": {"train": len(pairs)}}, {"by": "test"}).write(root)
    out = run(root, "stamps")
    found = rows_of(out, "stamps_t2i")
    shown = {item_digest(pair.target) for pair in found}
    for pair in found:
        mined = {item_digest(item) for item in pair.negatives}
        assert len(mined) == 3 and mined < shown - {item_digest(pair.target)}
    told = PreparedSet.of(out)
    assert told is not None and told.source["made of"] == {"by": "test"}
    table = pq.read_table(out / "stamps_t2i")
    assert table["query"][0].as_py() == {
        "text": pairs[0].query.text, "images": [], "instruction": "Find:"}  # fmt: skip
    assert table["target"][0]["images"].as_py() == list(pairs[0].target.images)
    again = run(out, "stamps_again")  # what is a negative already is not mined again
    assert all(len({content(n) for n in p.negatives}) == 6 for p in rows_of(again, "stamps_t2i"))


def second_of(folder: Path, model: Path, more: str = "") -> Path:
    """An evaluation's file that names a second model."""
    file = folder / "second.yaml"
    named = f"model: {{name: {model}, quantization: none, precision: float32}}\n"
    file.write_text(f"{more}data: {{suite: y}}\n{named}")
    return file


def test_a_second_model_is_asked(
    run: Mine, material: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    file = second_of(tmp_path, tiny_model("qwen2_vl", 1), "output_dir: x\n")
    settings = ("data.tasks=[Questions]", f"second.config={file}")
    some = run(material / "mmeb", "second", *settings, "second.margin=0")
    none = run(material / "mmeb", "never", *settings, "second.max_score=-1", "second.margin=null")
    reports = [json.loads((out / "mining/Questions.json").read_text()) for out in (some, none)]
    dropped = [report["rules"]["second model"]["dropped"] for report in reports]
    assert 0 < dropped[0] < dropped[1] == reports[1]["candidates"]
    assert reports[1]["negatives"] == 0


def test_a_second_model_that_is_the_first_is_refused(
    run: Mine, material: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    file = second_of(tmp_path, tiny_model("qwen2_vl"))
    with pytest.raises(ConfigError, match="second.config: got .*, expected another model"):
        run(material / "mmeb", "same", "data.tasks=[Questions]", f"second.config={file}")
