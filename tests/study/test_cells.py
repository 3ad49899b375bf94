"""What a cell is, and what two of them share: ./launch.sh test tests/study/test_cells.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval.study import plan
from eval.study.identity import data_digest
from eval.study.marks import Marks
from eval.study.plan import Cell, cells_of
from eval.study.rows import row_of
from eval.study.settings import BaseConfig, StudyConfig
from eval.study.table import Row
from tests.support.studies import StudyCheckout
from unime.config import build_config
from unime.data.prepared.folder import CHECK, PreparedSet, write_rows
from unime.inputs.items import Item, Pair

RECIPES = "recipes: [unime, infonce-after-stage1, stage1-only, vlm2vec]\nseeds: [0, 1]\n"
FEW = "recipes: [unime, vlm2vec]\nseeds: [0]\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyCheckout:
    monkeypatch.chdir(tmp_path)
    return StudyCheckout(tmp_path)


def planned(checkout: StudyCheckout, text: str = RECIPES, *words: str) -> list[Cell]:
    study = build_config(StudyConfig, Path(checkout.write(text)), list(words))
    return cells_of(study, build_config(BaseConfig, Path(study.base)))


def names(cells: list[Cell]) -> list[list[str]]:
    return [[step.name for step in cell.steps] for cell in cells]


def test_cells_share_the_stage_1_of_their_seed(checkout: StudyCheckout) -> None:
    cells = planned(checkout)
    assert [(cell.recipe, cell.seed) for cell in cells] == [
        (recipe, seed)
        for recipe in ("unime", "infonce-after-stage1", "stage1-only", "vlm2vec")
        for seed in (0, 1)
    ]
    first = {(cell.recipe, cell.seed): cell.steps[0].name for cell in cells}
    for seed in (0, 1):
        own = {first[recipe, seed] for recipe in ("unime", "infonce-after-stage1", "stage1-only")}
        assert len(own) == 1 and own.pop().startswith("stage1-")
    assert first["unime", 0] != first["unime", 1]
    assert first["vlm2vec", 0].startswith("stage2-")
    assert len({cell.identity for cell in cells}) == len(cells)
    for cell in cells:
        for before, after in zip(cell.steps, cell.steps[1:], strict=False):
            assert after.needs == (before.name,)
            assert f"model.adapter={before.folder}/final" in after.command


def test_an_identity_is_that_of_settings_data_model_and_code(
    checkout: StudyCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(planned(checkout, FEW))
    others = ("workers=2", "retry=true", "baseline=unime", "output_dir=elsewhere")
    assert names(planned(checkout, FEW, *others)) == before
    for changed, text in (("stage1.yaml", "  "), ("base.yaml", "# a remark\n")):
        path = checkout.folder / changed
        path.write_text(path.read_text() + f"\n{text}")
    assert names(planned(checkout, FEW)) == before  # of a remark alone nothing is made anew

    def moved(*kinds: str) -> None:
        """Exactly these kinds of steps are others now, and all that come after them."""
        now = names(planned(checkout, FEW))
        for old, new in zip(before, now, strict=True):
            touched = False
            for one, other in zip(old, new, strict=True):
                touched |= one.split("-")[0] in kinds
                assert (one != other) == touched, (one, other)

    (checkout.folder / "texts.jsonl").write_text('{"text": "b"}\n')
    moved("stage1")
    (checkout.folder / "texts.jsonl").write_text('{"text": "a"}\n')
    (checkout.folder / "pairs").mkdir()
    (checkout.folder / "pairs/rows.parquet").write_text("rows")
    moved("stage2")
    (checkout.folder / "pairs/rows.parquet").unlink()
    (checkout.folder / "pairs").rmdir()
    monkeypatch.setattr(plan, "code_of", lambda kind: "new" if kind == "eval" else "x")
    other = names(planned(checkout, FEW))
    assert all(a[-1] != b[-1] for a, b in zip(before, other, strict=True))


def test_a_model_folder_counts_by_its_content(checkout: StudyCheckout) -> None:
    model = checkout.folder / "some/model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    before = names(planned(checkout, FEW))
    (model / "config.json").write_text("{ }")
    assert all(a[0] != b[0] for a, b in zip(before, names(planned(checkout, FEW)), strict=True))


def test_the_grid_is_every_combination_of_what_a_recipe_has(checkout: StudyCheckout) -> None:
    text = (
        "recipes: [unime, stage1-only, e5v]\nseeds: [0]\n"
        "grid: {stage2.loss.temperature: [0.02, 0.05], stage1.lora.rank: [8, 16],\n"
        "  data: [pairs, mined]}\n"
    )
    cells = planned(checkout, text)
    counts = {r: sum(cell.recipe == r for cell in cells) for r in ("unime", "stage1-only", "e5v")}
    assert counts == {"unime": 8, "stage1-only": 2, "e5v": 2}
    for cell in cells:
        if cell.recipe == "unime":
            stage2 = cell.steps[-2].config
            assert stage2.loss.temperature == cell.values["stage2.loss.temperature"]
            assert cell.steps[0].config.lora.rank == cell.values["stage1.lora.rank"]
            mined = [step.kind for step in cell.steps] == ["stage1", "mine", "stage2", "eval"]
            assert mined == (cell.values["data"] == "mined")
            if mined:
                assert stage2.data.root == str(cell.steps[1].folder)
                assert cell.steps[1].config.model.adapter == f"{cell.steps[0].folder}/final"
                assert cell.steps[1].config.data.root == "pairs"
    assert len({cell.identity for cell in cells}) == len(cells)


def test_what_cannot_run_is_there_with_the_reason(checkout: StudyCheckout) -> None:
    text = "recipes: [unime, stage2-only]\nseeds: [0]\ngrid: {stage2.loss.temperatur: [1]}\n"
    for cell in planned(checkout, text):
        assert cell.steps == () and "unknown key 'loss.temperatur'" in cell.problem


def test_data_count_by_content_and_pictures_by_size(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"12")
    (tmp_path / "a.png").write_bytes(b"12")
    (tmp_path / ".cache").write_bytes(b"12")

    def now() -> str:
        data_digest.cache_clear()
        return data_digest(str(tmp_path))

    before = now()
    (tmp_path / "a.png").write_bytes(b"34")
    (tmp_path / ".cache").write_bytes(b"345")
    assert now() == before
    (tmp_path / "a.png").write_bytes(b"345")
    assert now() != before
    (tmp_path / "a.png").write_bytes(b"12")
    (tmp_path / "rows.parquet").write_bytes(b"21")
    assert now() != before
    assert data_digest(str(tmp_path / "nothing")) == "absent"


def test_a_prepared_set_counts_with_its_pictures_and_without_its_check(tmp_path: Path) -> None:
    """Which lie where they did (prepare own), and of which others may lie there too."""
    root, pictures = tmp_path / "set", tmp_path / "pictures"
    for name in ("a.png", "b.gif", "c.png", "other.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"12")
    items = [Item(images=(name,)) for name in ("a.png", "b.gif", "c.png")]
    write_rows(root / "task", "train", [Pair(items[0], items[1], (items[2],), "row")], 1)
    PreparedSet(str(pictures), {"task": {"train": 1}}).write(root)

    def now() -> str:
        data_digest.cache_clear()
        return data_digest(str(root))

    before = now()
    (root / CHECK).mkdir()
    (root / CHECK / "report.html").write_text("sound")
    (pictures / "other.png").write_bytes(b"123")
    (pictures / "a.png").write_bytes(b"34")
    assert now() == before
    for name in ("a.png", "b.gif", "c.png"):
        (pictures / name).write_bytes(b"345")
        assert now() != before
        (pictures / name).unlink()
        assert now() != before
        (pictures / name).write_bytes(b"12")
        assert now() == before


def test_a_damaged_set_is_a_problem_of_its_cells(checkout: StudyCheckout) -> None:
    (checkout.folder / "triples").mkdir()
    (checkout.folder / "triples/set.json").write_text("{")
    sound, damaged = planned(checkout, "recipes: [unime, e5v]\nseeds: [0]\n")
    assert not sound.problem and "set.json" in damaged.problem and damaged.steps == ()


def test_a_judge_that_a_recipe_trains_is_shared_with_it(checkout: StudyCheckout) -> None:
    text = "recipes: [infonce-after-stage1, unime-v2]\nseeds: [0]\n"
    plain, judged = planned(checkout, text)
    kinds = [step.kind for step in judged.steps]
    assert kinds == ["stage1", "mine", "stage2", "judge", "stage2", "eval"]
    mined, trained, judge, stage2 = judged.steps[1:5]
    assert trained == plain.steps[1] and judged.steps[0] == plain.steps[0]
    assert set(judge.needs) == {mined.name, trained.name}
    assert judge.config.model.adapter == f"{trained.folder}/final"
    assert stage2.needs == (judge.name,) and stage2.config.data.root == str(judge.folder)
    assert stage2.config.model.adapter == f"{judged.steps[0].folder}/final"


def test_a_row_has_no_metrics_of_the_judges_training(checkout: StudyCheckout) -> None:
    folder = checkout.folder
    text = "judged_by: own\n"
    path = folder / "base.yaml"
    path.write_text(path.read_text().replace("judged_by: infonce-after-stage1\n", text))
    recipe = "source: s\nstage1: {optim: {learning_rate: 0.5}}\n"  # a stage 1 of its own, too
    (folder / "configs/recipes/own.yaml").write_text(recipe)
    (cell,) = planned(checkout, "recipes: [unime-v2]\nseeds: [0]\n")
    kinds = [step.kind for step in cell.steps]
    assert kinds == ["stage1", "mine", "stage1", "stage2", "judge", "stage2", "eval"]

    def row_with(*trained: int) -> Row:
        for number in trained:
            step = cell.steps[number]
            step.folder.mkdir(parents=True)
            line = {"step": number, "loss": 1.0, f"only_{number}": 1.0}
            (step.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return row_of(cell, "small", Marks(folder / "runs/study"))

    row = row_with(0, 2, 3)
    assert row["stage1/step"] == 0 and "stage1/only_2" not in row
    assert not any("stage2/" in key for key in row)
    row = row_with(5)
    assert row["stage2/step"] == 5 and "stage2/only_5" in row and "stage2/only_3" not in row


@pytest.mark.parametrize(
    ("grid", "own"),
    [
        ("stage2.run.seed: [5, 6]", "grid: stage2.run.seed: the study itself sets run.seed=0"),
        ("stage2.model.adapter: [x, y]", "grid: stage2.model.adapter: the study itself sets"),
        ("stage2.run: [{seed: 1}]", "grid: stage2.run: the study itself sets run.seed=0"),
        ("data: [mined], stage2.data.root: [a, b]", "stage2.data.root: .* sets data.root=.*mine-"),
    ],
)
def test_what_a_study_sets_itself_is_in_no_grid(
    grid: str, own: str, checkout: StudyCheckout
) -> None:
    cells = planned(checkout, f"recipes: [unime]\nseeds: [0]\ngrid: {{{grid}}}\n")
    assert cells
    for cell in cells:
        assert cell.steps == () and re.search(own, cell.problem), cell.problem


def test_mining_reads_the_data_of_its_recipe_and_grid(checkout: StudyCheckout) -> None:
    text = (
        "recipes: [unime]\nseeds: [0]\ngrid: {data: [mined], stage2.data.sources: [{Other: {}}]}\n"
    )
    (cell,) = planned(checkout, text)
    assert cell.steps[1].config.data.tasks == ["Other"]


def test_mining_sees_the_rows_that_pairs_are(checkout: StudyCheckout) -> None:
    """All that says which rows and pictures these are; stage 2 then has a set that says it."""
    words = ["data.split=other", "data.image_root=pictures", "data.follow_links=true",
             "data.answer_column=key", "data.on_bad_row=drop", "data.revision=main"]  # fmt: skip
    text = "recipes: [unime, unime-v2, e5v]\nseeds: [0]\ngrid: {data: [pairs, mined, judged]}\n"
    text += f"words: {{stage2: [{', '.join(words)}]}}\n"
    for cell in planned(checkout, text):
        assert not cell.problem
        data = cell.steps[-2].config.data
        if cell.values.get("data") == "pairs":
            pairs = data
            continue
        assert (data.split, data.revision, data.answer_column) == (None, None, None)
        for step in cell.steps:
            if step.kind == "mine":
                assert step.config.data.pairs(["Words"]) == pairs
            if step.kind == "judge":
                assert step.config.data.follow_links and step.config.data.split is None


def test_what_mining_s_own_file_says_of_rows_gives_way(checkout: StudyCheckout) -> None:
    """To what stage 2 would read, also where that is the default."""
    text = "recipes: [unime]\nseeds: [0]\ngrid: {data: [mined]}\n"
    text += "words: {mine: [data.split=other, data.image_root=pictures]}\n"
    (cell,) = planned(checkout, text)
    data = cell.steps[1].config.data
    assert (data.split, data.image_root) == (None, None)


def test_a_grid_of_rows_is_heeded_where_they_are_mined(checkout: StudyCheckout) -> None:
    text = "recipes: [unime]\nseeds: [0]\n"
    text += "grid: {data: [mined], stage2.data.answer_column: [null, key]}\n"
    cells = planned(checkout, text)
    assert [cell.problem for cell in cells] == ["", ""]
    assert [cell.steps[1].config.data.answer_column for cell in cells] == [None, "key"]
    assert [cell.steps[2].config.data.answer_column for cell in cells] == [None, None]
    assert not {step.name for step in cells[0].steps[1:]} & {s.name for s in cells[1].steps[1:]}


def test_all_that_a_step_reads_is_of_its_identity(checkout: StudyCheckout) -> None:
    """The second model that mines, with its weights; a suite that validates; a processor."""
    folder = checkout.folder
    for name in ("second-model", "processor", "validation"):
        (folder / name).mkdir()
        (folder / name / "file.json").write_text("1")
    (folder / "second.yaml").write_text("data: {suite: s.yaml}\nmodel: {name: second-model}\n")
    text = "recipes: [unime-v2]\nseeds: [0]\nwords:\n  mine: [second.config=second.yaml]\n"
    text += (
        "  stage2: [validation.every=2, validation.suite=suite.yaml, validation.root=validation]\n"
    )
    text += "  eval: [model.processor=processor]\n"
    before = planned(checkout, text)[0]
    assert not before.problem

    def changed(path: str) -> set[str]:
        file = folder / path
        was = file.read_text()
        file.write_text(was + " ")
        after = planned(checkout, text)[0]
        file.write_text(was)
        return {a.kind for a, b in zip(before.steps, after.steps, strict=True) if a.name != b.name}

    later = {"mine", "judge", "stage2", "eval"}
    assert changed("second.yaml") == changed("second-model/file.json") == later
    assert changed("validation/file.json") == {"judge", "stage2", "eval"}
    assert changed("processor/file.json") == {"eval"}
